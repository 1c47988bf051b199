"""A TCP proxy of the test's own: what lies between a client and a server, and what can go wrong there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Between:
    """Passes bytes to and from `port` of this host, until it is `partitioned` or `cut`."""

    def __init__(self, port: int) -> None:
        self.towards = port
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._refuses = False
        self.port = 0
        self.accepted = 0

    def partitioned(self) -> None:
        """Nothing passes any more, and nobody is told: connections stay open, new ones are taken and lead nowhere."""
        self._open.clear()

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with `refuse` every new one too."""
        self._refuses = refuse
        for writer in self._writers:
            writer.transport.abort()

    def healed(self) -> None:
        """Let bytes pass again, those that waited first.  What was cut stays cut."""
        self._refuses = False
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            if self._refuses:
                writer.transport.abort()
                return
            await self._open.wait()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.towards)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._writers.discard(writer)
        self._writers |= {writer, there_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there_writer))
                group.create_task(self._pass(there_reader, writer))
        finally:
            self._writers -= {writer, there_writer}
            writer.transport.abort()
            there_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # reset by one side: the other gets the same
        writer.transport.abort()


@asynccontextmanager
async def between(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Between]:
    """Stand between clients and what listens on `port`; with `tls` clients speak TLS to us."""
    proxy = Between(port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
