"""Nodes made of raw sockets: they record exactly what they are sent, and answer exactly what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from lb.exchange import abort
from tests.support.upstreams import switching_protocols


@dataclass
class Conversation:
    """One connection that a balancer made to a backend."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the balancer closed it."""

    async def head(self) -> bytes:
        """Return the next request head; raises IncompleteReadError at the end of the connection."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def finish(self) -> None:
        """Send no more, and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Close as a crashed host would be heard to: with a reset."""
        abort(self.writer.transport)

    async def until_closed(self) -> bytes:
        """Read to the end of what the balancer sends."""
        rest = await self.reader.read()
        self.ended.set()
        return rest


@dataclass
class Backend:
    """A server on a loopback port; `heads` are the request heads it read, byte for byte."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)

    @property
    def targets(self) -> list[bytes]:
        return [head.split(b" ")[1] for head in self.heads]

    def headers(self, index: int = -1) -> dict[bytes, list[bytes]]:
        """Return the header fields of one recorded head, names in lower case."""
        fields: dict[bytes, list[bytes]] = {}
        for line in self.heads[index].split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b": ")
            fields.setdefault(name.lower(), []).append(value)
        return fields


Talk = Callable[[Conversation, bytes], Awaitable[None]]
"""What a backend does with each request: it is given the head, and may read the body from the conversation."""


@asynccontextmanager
async def backend(talk: Talk, port: int = 0) -> AsyncIterator[Backend]:
    """Run a backend that calls `talk` for every request, until its connections end."""
    result = Backend()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        conversation = Conversation(reader, writer)
        result.conversations.append(conversation)
        try:
            while True:
                head = await conversation.head()
                result.heads.append(head)
                await talk(conversation, head)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            conversation.ended.set()
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    result.port = server.sockets[0].getsockname()[1]
    try:
        yield result
    finally:
        server.close()
        for conversation in result.conversations:
            conversation.writer.transport.abort()
            with suppress(ConnectionError):
                await conversation.writer.wait_closed()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


def answering(answer: bytes) -> Talk:
    """Give a `talk` that answers every request, which must have no body, with these bytes."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(answer)

    return talk


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def tunnel_echo(conversation: Conversation, head: bytes) -> None:
    """Take the upgrade, then send back every byte, and end when the client's side ends."""
    await conversation.send(switching_protocols(head))
    while data := await conversation.reader.read(65_536):
        await conversation.send(data)
    conversation.finish()
    conversation.ended.set()


@asynccontextmanager
async def hanging() -> AsyncIterator[Backend]:
    """Run a backend that takes connections and requests and never answers."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.until_closed()

    async with backend(talk) as result:
        yield result
