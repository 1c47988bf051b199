"""A link between a balancer and a node that can have every fault of a network, one after the other, while it is in use.

A TCP relay: what happens to segments on a real line shows here as what TCP makes of it.  A lost segment is a stall, a
line that was cut without a word is silence, and a SYN that nobody answers is a full accept queue (Linux then drops it).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from lb.exchange import abort

PROBE = b"flotilla-probe"
_VISITOR = re.compile(rb"[?&]visitor=(\d+)")


class Entrance(StrEnum):
    """What becomes of a new connection."""

    OPEN = "open"
    CLOSED = "closed"
    """Refused: nothing listens."""
    FULL = "full"
    """Its SYN is not answered."""
    RESETS = "resets"
    """It is reset as soon as it is there."""


@dataclass(frozen=True)
class Condition:
    """What a link is like; by default it passes everything at once.  What it holds back it passes when it can again."""

    entrance: Entrance = Entrance.OPEN
    to_node: bool = True
    """Whether bytes pass in that direction; the ends of connections, too."""
    to_balancer: bool = True
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more, by chance."""
    bytes_per_s: float = 0.0
    """0: any number."""
    lost: float = 0.0
    """The share of pieces that are lost, and come after `resent_s`, or twice as late if they are lost again, …"""
    resent_s: float = 0.2
    cut_after_bytes: int | None = None
    """So much of a node's answer passes; then the connection is reset."""
    spares: bytes = b""
    """Connections with this in their head pass as if nothing were wrong."""


WELL = Condition()
REFUSES = Condition(Entrance.CLOSED)
RESETS = Condition(Entrance.RESETS)
UNREACHABLE = Condition(Entrance.FULL, to_node=False, to_balancer=False)
"""A cable was pulled, or a firewall drops what comes: no answer at all, and nobody is told."""
HANGS = Condition(to_node=False, to_balancer=False)
"""A host whose kernel lives and whose process does not: connections are accepted, and lead nowhere."""
HALF_OPEN = Condition(to_balancer=False)
"""The node hears us, and we do not hear it."""
BREAKS_OFF = Condition(cut_after_bytes=20)
"""No answer gets through whole."""
TRICKLES = Condition(bytes_per_s=100)
"""Answers come, in their own time."""


@dataclass
class Crossing:
    """A connection that came over the link.  Times are wall clock seconds, as those of events are."""

    at: float
    head: bytes = b""
    """The first bytes that the balancer sent."""
    answered: int = 0
    """How many bytes of the node's it was passed."""

    @property
    def is_probe(self) -> bool:
        return PROBE in self.head

    @property
    def visitor(self) -> int | None:
        """The number of the client, if it gave one in its target; see tests/support/visitors.py."""
        found = _VISITOR.search(self.head.partition(b"\r\n")[0])
        return int(found[1]) if found else None


@dataclass
class FaultyLink:
    """Leads from `port` to the port `towards`."""

    port: int
    towards: int
    at: str = "127.0.0.1"
    towards_host: str = "127.0.0.1"
    crossings: list[Crossing] = field(default_factory=list)
    condition: Condition = WELL
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _full: list[socket.socket] = field(default_factory=list)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"{self.at}:{self.port}"

    @property
    def probes(self) -> list[Crossing]:
        return [crossing for crossing in self.crossings if crossing.is_probe]

    @property
    def visitors(self) -> list[Crossing]:
        """The clients that crossed, established ones not counted."""
        return [crossing for crossing in self.crossings if crossing.visitor is not None]

    async def becomes(self, condition: Condition) -> float:
        """Be like that from now on, for connections that are open too; return the wall clock time."""
        self.condition = condition
        await self._set_entrance()
        self._changed.set()
        self._changed = asyncio.Event()
        return time.time()

    def reset(self) -> None:
        """Reset all connections that are open."""
        for writer in self._open:
            abort(writer.transport)

    async def close(self) -> None:
        """End everything."""
        await self._shut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _set_entrance(self) -> None:
        entrance = self.condition.entrance
        is_listening = self._server is not None
        if is_listening is (entrance in (Entrance.OPEN, Entrance.RESETS)) and not self._full:
            return
        await self._shut()
        if entrance is Entrance.FULL:
            self._full = list(_full_queue(self.at, self.port))
        elif entrance is not Entrance.CLOSED:
            self._server = await asyncio.start_server(self._accept, self.at, self.port)

    async def _shut(self) -> None:
        for sock in self._full:
            sock.close()
        self._full = []
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carried(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carried(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A side that was reset, or not there, is nothing to tell a test of: it happens to both sides.
        with contextlib.suppress(OSError, _Broken, BaseExceptionGroup):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        crossing = Crossing(time.time())
        async with self._ending(writer):
            if self.condition.entrance is Entrance.RESETS and not self.condition.spares:
                self.crossings.append(crossing)
                raise _Broken
            crossing.head = await reader.read(65_536)
            self.crossings.append(crossing)
            if self._for(crossing).entrance is Entrance.RESETS:
                raise _Broken
            await self._line(crossing, len(crossing.head), to_node=True)
            node_reader, node_writer = await asyncio.open_connection(self.towards_host, self.towards)
            async with self._ending(node_writer), asyncio.TaskGroup() as both:
                node_writer.write(crossing.head)
                both.create_task(self._pass(reader, node_writer, crossing, to_node=True))
                both.create_task(self._pass(node_reader, writer, crossing, to_node=False))

    @asynccontextmanager
    async def _ending(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        """Close one side at the end; reset it if the other was reset, or the link breaks it."""
        self._open.add(writer)
        try:
            yield
            writer.close()
        except BaseException:
            abort(writer.transport)
            raise
        finally:
            self._open.discard(writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, crossing: Crossing, *, to_node: bool
    ) -> None:
        while data := await reader.read(65_536):
            await self._line(crossing, len(data), to_node=to_node)
            limit = self._for(crossing).cut_after_bytes
            if not to_node:
                if limit is not None and crossing.answered + len(data) > limit:
                    raise _Broken
                crossing.answered += len(data)
            writer.write(data)
            await writer.drain()
        await self._line(crossing, 0, to_node=to_node)
        with contextlib.suppress(OSError):  # the other end was reset meanwhile
            writer.write_eof()

    def _for(self, crossing: Crossing) -> Condition:
        spares = self.condition.spares
        return WELL if spares and spares in crossing.head else self.condition

    async def _line(self, crossing: Crossing, size: int, *, to_node: bool) -> None:
        """Wait until a piece of this size has passed the line."""
        now = self._for(crossing)
        while not (now.to_node if to_node else now.to_balancer):
            await self._changed.wait()
            now = self._for(crossing)
        seconds = now.delay_s + now.jitter_s * self.rng.random()
        if now.bytes_per_s:
            seconds += size / now.bytes_per_s
        resent_s = now.resent_s
        while now.lost and self.rng.random() < now.lost:
            seconds, resent_s = seconds + resent_s, 2 * resent_s
        if seconds:
            await asyncio.sleep(seconds)


class _Broken(Exception):
    """The link cuts this connection."""


def _full_queue(host: str, port: int) -> Iterator[socket.socket]:
    """Give a listening socket whose accept queue is full, and the connections that fill it."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(0)
    yield listening
    for _ in range(64):
        filler = socket.socket()
        filler.settimeout(0.05)
        yield filler
        try:
            filler.connect((host, port))
        except TimeoutError:
            return
    raise AssertionError("the accept queue is never full on this system")


@asynccontextmanager
async def faulty_link(
    port: int, towards: int, *, at: str = "127.0.0.1", towards_host: str = "127.0.0.1"
) -> AsyncIterator[FaultyLink]:
    """Run a link, which is well at first, from `port` to the port `towards`."""
    link = FaultyLink(port, towards, at, towards_host)
    await link._set_entrance()
    try:
        yield link
    finally:
        await link.close()
