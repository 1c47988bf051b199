"""A server that reads strictly, keeps what it read, and says in each answer which request that was for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import h11


class Read(NamedTuple):
    """A request as a reader understood it."""

    method: bytes
    target: bytes
    body: bytes


@dataclass
class Recorder:
    """`requests` are those of all connections, `faults` what was no HTTP on them."""

    port: int = 0
    requests: list[Read] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while (read := await _next_request(connection, reader)) is not None:
                self.requests.append(read)
                said = read.target if read.method != b"HEAD" else b""
                length = [("Content-Length", str(len(read.target))), ("X-Said", read.target.decode("latin-1"))]
                for event in (h11.Response(status_code=200, headers=length), h11.Data(data=said), h11.EndOfMessage()):
                    writer.write(connection.send(event) or b"")
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
        except h11.RemoteProtocolError as exc:
            self.faults.append(f"{exc}: {connection.trailing_data[0][:80]!r}")
        except ConnectionError:
            return  # whoever asked has gone
        finally:
            writer.close()


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> Read | None:
    """Return the next request, or None if the connection ends before or within it.  Raises h11.RemoteProtocolError."""
    read = Read(b"", b"", b"")
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                data = await reader.read(65_536)
                if not data:
                    return None
                connection.receive_data(data)
            case h11.Request() as request:
                read = Read(request.method, request.target, b"")
            case h11.Data() as piece:
                read = read._replace(body=read.body + bytes(piece.data))
            case h11.EndOfMessage():
                return read
            case _:
                return None


@asynccontextmanager
async def recorder() -> AsyncIterator[Recorder]:
    """Run one on a loopback port."""
    found = Recorder()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


def requests_in(data: bytes) -> list[Read]:
    """Return the requests that another reader finds in what a client sent on one connection, up to what is none."""
    connection, found = h11.Connection(h11.SERVER), []
    connection.receive_data(data)
    read = Read(b"", b"", b"")
    try:
        while True:
            match connection.next_event():
                case h11.Request() as request:
                    read = Read(request.method, request.target, b"")
                case h11.Data() as piece:
                    read = read._replace(body=read.body + bytes(piece.data))
                case h11.EndOfMessage():
                    found.append(read)
                    connection.send(h11.Response(status_code=204, headers=[]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return found
                    connection.start_next_cycle()
                case _:
                    return found
    except h11.RemoteProtocolError:
        return found
