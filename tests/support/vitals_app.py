"""An application for `python -m node` that says how its process is set up: /vitals."""

from __future__ import annotations

import gc

from aiohttp import web

from node import Server

sio = Server()


async def vitals(_: web.Request) -> web.Response:
    return web.json_response({"full_collection_after": gc.get_threshold()[2], "put_away": gc.get_freeze_count()})


sio.web.router.add_get("/vitals", vitals)
