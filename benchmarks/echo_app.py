"""An application for a node: `/echo` sends every WebSocket message back, `/` answers 200.

    python -m node --app benchmarks.echo_app:sio

Plain aiohttp, as a user of `sio.web` would write it.
"""

from __future__ import annotations

from aiohttp import WSMsgType, web

from node import Server

PATH = "/echo"
MOST_MESSAGE_BYTES = 16 * 2**20

sio = Server()


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(compress=False, max_msg_size=MOST_MESSAGE_BYTES)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
    return websocket


async def index(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


sio.web.router.add_get(PATH, echo)
sio.web.router.add_get("/", index)
