"""An application for `python -m node` with WebSockets of its own: /aiohttp and /channel say back what they hear."""

from __future__ import annotations

from aiohttp import web

from node import Server
from node.echo import Echo

sio = Server()


async def through_aiohttp(request: web.Request) -> web.StreamResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        await websocket.send_str(message.data)
    return websocket


async def through_a_channel(request: web.Request) -> web.StreamResponse:
    receiver = Echo()
    receiver.channel, response = sio.eio.guests.open(request, receiver)
    return response


sio.web.add_routes([web.get("/aiohttp", through_aiohttp), web.get("/channel", through_a_channel)])
