"""One connection to one Redis server: commands out, replies in, nothing between.

The bus sends and hears thousands of messages a second: a client library's connection pool, retries and futures for
each command cost more than all the rest (`benchmarks/bus.py`).  hiredis reads the replies.
RESP2 on purpose: every server from 6.2 on speaks it alike, also to a subscriber.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis

from cluster.redis_address import RedisAddress, Server

CONNECT_S = 2.0
"""Until a server has taken the connection and said who it is."""

ANSWER_S = 3.0
"""A server that answers nothing for so long is not there."""


class RedisLost(ConnectionError):
    """There is no connection to Redis, or not any more; the text says why."""


class Refused(RedisLost):
    """Redis answered with an error."""


class RedisSocket(asyncio.Protocol):
    """Who has it sets `heard`, which gets each reply (errors as hiredis.ReplyError) that `ask` does not wait for."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone; the result says why."""
        self.heard: Callable[[Any], None] = _ignored
        self.batch_ended: Callable[[], None] = _nothing
        """Called when all replies are dealt with that came together."""
        self.is_writable = True
        self.on_writable: Callable[[], None] = _nothing
        self._reader = hiredis.Reader()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._resting: asyncio.TimerHandle | None = None

    def write(self, commands: bytes) -> None:
        """Send whole commands, as `command` makes them."""
        if self._transport is not None:
            self._transport.write(commands)

    async def ask(self, *words: bytes | str | int) -> Any:
        """Send one command and return its reply.  Raises RedisLost: no answer in time, or an error.

        Only before `heard` expects replies of its own.
        """
        reply = await self._answer(words)
        if isinstance(reply, hiredis.ReplyError):
            raise Refused(str(reply))
        return reply

    async def _answer(self, words: tuple[bytes | str | int, ...]) -> Any:
        if self.lost.done():
            raise RedisLost(self.lost.result())
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.write(command(*words))
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            self.abort(f"no answer from {self.server} for {ANSWER_S:g} s")
            raise RedisLost(self.lost.result()) from None

    def rest(self, seconds: float) -> None:
        """Read nothing for so long, or until `wake`: one look for many replies."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and self._resting is None:
            transport.pause_reading()
            self._resting = asyncio.get_running_loop().call_later(seconds, self.wake)

    def wake(self) -> None:
        """Read again."""
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.cancel()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=1 << 20)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader, asked = self._reader, self._asked
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if not asked:
                    self.heard(reply)
                elif not (answer := asked.popleft()).done():
                    answer.set_result(reply)
        except hiredis.ProtocolError as exc:
            self.abort(f"{self.server} does not speak Redis: {exc}")
            return
        self.batch_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"{self.server} closed the connection" if exc is None else f"{self.server}: {exc}")
        self._transport = None

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self.on_writable()

    def _end(self, reason: str) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if not self.lost.done():
            self.lost.set_result(reason)
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(RedisLost(reason))


async def dialled(server: Server, address: RedisAddress, *, greet: bool = True) -> RedisSocket:
    """Connect to `server`, and log in as `address` says unless it is only asked the way.  Raises RedisLost."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            link = await _connected(loop, server, address)
    except TimeoutError:
        raise RedisLost(f"{server} did not answer within {CONNECT_S:g} s") from None
    except OSError as exc:
        raise RedisLost(f"{server}: {exc.strerror or exc}") from None
    try:
        if greet:
            await _log_in(link, address)
    except BaseException:
        link.abort("not logged in")
        raise
    return link


async def _connected(loop: asyncio.AbstractEventLoop, server: Server, address: RedisAddress) -> RedisSocket:
    if server.path:
        _, link = await loop.create_unix_connection(lambda: RedisSocket(server), server.path)
        return link
    if address.tls is not None:
        _, link = await loop.create_connection(
            lambda: RedisSocket(server), server.host, server.port, ssl=address.tls, server_hostname=server.host
        )
        return link
    _, link = await loop.create_connection(lambda: RedisSocket(server), server.host, server.port)
    return link


async def _log_in(link: RedisSocket, address: RedisAddress) -> None:
    if address.password:
        await link.ask("AUTH", *filter(None, (address.username, address.password)))
    with suppress(Refused):
        # Not every ACL allows it, and it is only for those who read CLIENT LIST.
        await link.ask("CLIENT", "SETNAME", address.client_name or "flotilla-bus")
    if address.database:
        await link.ask("SELECT", address.database)


def command(*words: bytes | str | int) -> bytes:
    """Return a command as it goes to the server."""
    return hiredis.pack_command(words)  # type: ignore[arg-type,no-any-return]


def _ignored(_: Any) -> None:
    """A reply that nobody expects."""


def _nothing() -> None:
    pass
