"""An application for `python -m node` that asks all nodes, as its clients tell it to.

Each client of it is in the room "all" and in one that is called as its node.
"""

from __future__ import annotations

from typing import Any

import socketio

from node import Server

sio = Server()


@sio.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await sio.save_session(sid, {"n": 1, "list": [1, [2]], "object": object()})
    await sio.enter_room(sid, "all")
    await sio.enter_room(sid, sio.node.name)


@sio.event
async def whoami(sid: str) -> list[str]:
    return [sid, sio.node.name]


@sio.event
async def fetch(sid: str, to: Any, timeout: float) -> dict[str, Any]:
    found = await sio.fetch_sockets(to, timeout=timeout)
    return {"sids": sorted(each.sid for each in found), "missing": found.missing, "failed": found.failed}


@sio.event
async def ask(sid: str, to: str, event: str, data: Any, timeout: float) -> Any:
    """Call one client, wherever it is."""
    try:
        return await sio.call(event, data, to=to, timeout=timeout)
    except socketio.exceptions.TimeoutError:
        return "no answer"


@sio.event
async def ask_all(sid: str, to: Any, event: str, data: Any, timeout: float) -> dict[str, Any]:
    """Call many."""
    answers = await sio.broadcast_call(event, data, to=to, timeout=timeout)
    return {"given": answers.given, "missing": answers.missing, "nodes": answers.missing_nodes}


@sio.event
async def with_callback(sid: str, to: str, data: Any) -> None:
    """Emit to one client, and tell who asked what it acknowledges with."""

    async def answered(*values: Any) -> None:
        await sio.emit("answered", list(values), to=sid)

    await sio.emit("question", data, to=to, callback=answered)


@sio.event
async def count(sid: str) -> int:
    return await sio.server_count()
