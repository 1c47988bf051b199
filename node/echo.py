"""`python -m node --app node.echo:sio`: says back on `/echo`, a plain WebSocket, whatever it is told.

For protocol test suites and benchmarks, and an example of a WebSocket endpoint beside Socket.IO.
"""

from __future__ import annotations

from aiohttp import web

from node import Server
from node.channel import Channel
from node.deflate import framed
from node.frames import BINARY, TEXT

sio = Server()


class Echo:
    """One client.  While it does not read, it is not read from either."""

    channel: Channel

    def received(self, data: str | bytes) -> None:
        channel = self.channel
        payload, first = (data.encode(), TEXT) if isinstance(data, str) else (data, BINARY)
        channel.write(framed(first, payload, channel.deflates))
        if channel.is_behind:
            channel.pause_reading()
            channel.when_drained(channel.resume_reading)

    def closed(self, code: int, reason: str) -> None:
        """Nothing is kept of a client."""


async def echo(request: web.Request) -> web.StreamResponse:
    """Open a WebSocket for a new client."""
    receiver = Echo()
    receiver.channel, response = sio.eio.guests.open(request, receiver)
    return response


sio.web.router.add_get("/echo", echo)
