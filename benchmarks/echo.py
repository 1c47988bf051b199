"""A WebSocket echo server to put behind a balancer; answers plain HTTP with 200.

    python -m benchmarks.echo PORT

Text, binary and fragments go back as they came, ping as pong, close as close.  It runs until it is told to end.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from benchmarks.frames import CLOSE, PING, PONG, accept_key, read_frame, server_frame
from benchmarks.measure import new_event_loop

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"


class Echo(asyncio.Protocol):
    """One connection: requests until one asks for the upgrade, then frames."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while not self._upgraded:
            end = self._pending.find(b"\r\n\r\n")
            if end < 0:
                return
            self._answer(bytes(self._pending[:end]).decode("latin-1"))
            del self._pending[: end + 4]
        self._echo_frames()

    def _answer(self, head: str) -> None:
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))
        }
        if fields.get("upgrade", "").lower() != "websocket":
            self._transport.write(_PLAIN)
            return
        accept = accept_key(fields.get("sec-websocket-key", ""))
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        self._upgraded = True

    def _echo_frames(self) -> None:
        at = 0
        while (frame := read_frame(self._pending, at)) is not None:
            at += frame.size
            first = frame.first & 0xF0 | PONG if frame.opcode == PING else frame.first
            self._transport.write(server_frame(first, frame.payload))
            if frame.opcode == CLOSE:
                self._transport.close()
        del self._pending[:at]


async def serve(port: int) -> None:
    """Echo on this port of loopback for ever.  Raises OSError if it is taken."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
