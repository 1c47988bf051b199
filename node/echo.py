"""`python -m node --app node.echo:sio`: says back on `/echo`, a plain WebSocket, whatever it is told.

For protocol test suites and benchmarks, and an example of a WebSocket endpoint beside Socket.IO.
"""

from __future__ import annotations

from aiohttp import web

from node import Server
from node.channel import Channel, ChannelLimits
from node.frames import BINARY, TEXT, frame
from node.opening import take_over

sio = Server()


class Echo:
    """One client.  One that does not read is not read from either."""

    channel: Channel

    def received(self, data: str | bytes) -> None:
        channel = self.channel
        channel.write(frame(TEXT, data.encode()) if isinstance(data, str) else frame(BINARY, data))
        if channel.is_behind:
            channel.pause_reading()
            channel.when_drained(channel.resume_reading)

    def closed(self, code: int, reason: str) -> None:
        """Nothing is kept of a client."""


async def echo(request: web.Request) -> web.StreamResponse:
    """Open a WebSocket for a new client."""
    receiver = Echo()
    limits = request.app.get(LIMITS) or request.app.setdefault(LIMITS, ChannelLimits(sio.eio.max_http_buffer_size))
    receiver.channel, response = take_over(request, receiver, limits)
    return response


LIMITS = web.AppKey("LIMITS", ChannelLimits)
sio.web.router.add_get("/echo", echo)
