"""An application for `python -m node` with WebSockets of its own: /aiohttp and /channel say back what they hear.

To Socket.IO clients the event `say` answers with the node's name, too.
"""

from __future__ import annotations

from aiohttp import web

from node import Server
from node.echo import Echo

sio = Server()


@sio.event
async def say(sid: str, text: str) -> list[str]:
    return [text, sio.node.name]


async def through_aiohttp(request: web.Request) -> web.StreamResponse:
    websocket = web.WebSocketResponse()
    websocket.headers["X-Node"] = sio.node.name
    await websocket.prepare(request)
    async for message in websocket:
        await websocket.send_str(message.data)
    return websocket


async def through_a_channel(request: web.Request) -> web.StreamResponse:
    receiver = Echo()
    receiver.channel, response = sio.eio.guests.open(request, receiver)
    return response


sio.web.add_routes([web.get("/aiohttp", through_aiohttp), web.get("/channel", through_a_channel)])
