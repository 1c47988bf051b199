"""The application of the Socket.IO benchmarks, on a node of ours; benchmarks/js/server.mjs is the same on Node.js.

    python -m node --app benchmarks.sio.app:sio

* `echo`, text: acknowledged with the same text.
* `where`: acknowledged with the name of the server that the client is on.
* `say`, {first, count, text}: `count` events `message`, {n, text}, to everybody, numbered from `first` on.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from node import Server

sio = Server()


@sio.event
async def echo(sid: str, text: str) -> str:
    return text


@sio.event
async def where(sid: str) -> str:
    return sio.node.name


@sio.event
async def say(sid: str, what: dict[str, Any]) -> None:
    for number in range(what["first"], what["first"] + what["count"]):
        await sio.emit("message", {"n": number, "text": what["text"]})


async def index(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


sio.web.router.add_get("/", index)
