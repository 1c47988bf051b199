"""An application for `python -m node` with a quick heartbeat, whose clients ask where they are."""

from __future__ import annotations

from typing import Any

from node import Server

PING_INTERVAL_S, PING_TIMEOUT_S = 1.0, 1.0

sio = Server(ping_interval=PING_INTERVAL_S, ping_timeout=PING_TIMEOUT_S)


@sio.event
async def where(sid: str) -> str:
    return sio.node.name


@sio.event
async def echo(sid: str, data: Any) -> Any:
    return data
