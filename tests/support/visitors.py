"""New clients, one after the other, each of which says who it is: what became of it, and where it was sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from cluster.tag import claimed_slot_of
from tests.support.balancer import upgrade_request
from tests.support.websockets import close, frames_in

EVERY_S = 0.04
"""How long lies between two visitors of a stream."""

PATIENCE_S = 20.0
"""As long as socket.io-client waits for a handshake."""

_NUMBERS = count(1)


@dataclass
class Visit:
    """One client's handshake.  `began` is wall clock time; `fault` is empty if it was served."""

    number: int
    began: float
    status: int = 0
    node: str = ""
    retry_after: str = ""
    fault: str = ""
    seconds: float = 0.0
    """How long it took."""

    @property
    def is_over(self) -> bool:
        return bool(self.node or self.fault)


async def visit(port: int, *, polling: bool = False) -> Visit:
    """Open an Engine.IO session through the balancer on `port`, and leave."""
    made = Visit(next(_NUMBERS), time.time())
    await _make(made, port, polling=polling)
    return made


async def _make(made: Visit, port: int, *, polling: bool) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await _greeted(made, reader, writer, polling=polling)
            finally:
                writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
        made.fault = repr(exc)
    made.seconds = time.time() - made.began


async def _greeted(made: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, polling: bool) -> None:
    target = f"/socket.io/?EIO=4&transport={'polling' if polling else 'websocket'}&visitor={made.number}"
    if polling:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    else:
        writer.write(upgrade_request(target))
    head = await reader.readuntil(b"\r\n\r\n")
    made.status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    made.retry_after = fields.get(b"retry-after", b"").decode()
    if made.status == 101:
        made.node = _node_in(await _first_message(reader))
        writer.write(close(1000))
        await writer.drain()
    elif made.status == 200:
        made.node = _node_in(await reader.readexactly(int(fields[b"content-length"])))
    else:
        made.fault = f"answered {made.status}"


async def _first_message(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while not (frames := frames_in(data)[0]):
        piece = await reader.read(65_536)
        if not piece:
            raise asyncio.IncompleteReadError(data, None)
        data += piece
    return frames[0].payload


def _node_in(packet: bytes) -> str:
    """Return the name of the node that opened a session (an Engine.IO open packet, with its leading 0)."""
    return claimed_slot_of(json.loads(packet[1:])["sid"]) or ""


@dataclass
class Visitors:
    """A stream of visitors; `visits` are those that began, in that order."""

    port: int
    polling: bool
    """Every second one comes over long polling."""
    visits: list[Visit] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def failed(self) -> list[Visit]:
        return [made for made in self.visits if made.fault]

    def all_over(self, until: float) -> bool:
        """Tell whether all who came before that wall clock time have an answer."""
        return all(made.is_over for made in self.visits if made.began < until)

    async def come(self) -> None:
        """Let one come after the other, whatever became of those before, until cancelled."""
        for number in count():
            made = Visit(next(_NUMBERS), time.time())
            self.visits.append(made)
            task = asyncio.ensure_future(_make(made, self.port, polling=self.polling and bool(number % 2)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(EVERY_S)

    async def stay(self) -> None:
        """Wait until each has its answer."""
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def visitors(port: int, *, polling: bool = True) -> AsyncIterator[Visitors]:
    """Let visitors come to the balancer on `port` while the block lasts; at its end each has got its answer."""
    stream = Visitors(port, polling)
    coming = asyncio.ensure_future(stream.come())
    try:
        yield stream
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await stream.stay()
