"""The application of benchmarks/bus.py: clients enter a room, and `GET /emit` makes this server emit to it.

    python -m node --app benchmarks.bus_app:sio …            on Flotilla
    python -m benchmarks.bus_app PORT PATH-OF-REDIS-SOCKET   on python-socketio with its AsyncRedisManager

Each event carries when it was emitted, in microseconds of the host's monotonic clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import socketio
from aiohttp import web

from benchmarks.measure import new_event_loop
from node import Server

TEXT = "x" * 64
ROOM = "room"


def prepare(server: Any, app: web.Application) -> None:
    """Add the event and the route."""

    @server.on("enter")  # type: ignore[untyped-decorator]
    async def enter(sid: str) -> bool:
        await server.enter_room(sid, ROOM)
        return True

    async def emit(request: web.Request) -> web.Response:
        """Emit `count` events, `batch` of them at once each `every_ms`; 0: as fast as it goes."""
        count, batch, every_ms = (int(request.query[name]) for name in ("count", "batch", "every_ms"))
        who, loop = request.query.get("who", ""), asyncio.get_running_loop()
        due = loop.time()
        for start in range(0, count, batch):
            for number in range(start, start + batch):
                at = time.monotonic_ns() // 1000
                await server.emit("event", {"n": number, "at": at, "text": TEXT, "who": who}, room=ROOM)
            due += every_ms / 1000
            await asyncio.sleep(max(0, due - loop.time()) if every_ms else 0)
        return web.Response()

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    app.router.add_get("/", ready)
    app.router.add_get("/emit", emit)


sio = Server()
prepare(sio, sio.web)


async def _serve(port: int, redis: str) -> None:
    server = socketio.AsyncServer(async_mode="aiohttp", client_manager=socketio.AsyncRedisManager(f"unix://{redis}"))
    app = web.Application()
    server.attach(app)
    prepare(server, app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner_:
        runner_.run(_serve(int(sys.argv[1]), sys.argv[2]))
