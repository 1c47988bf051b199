"""Sessions that move from one engine to another, in one process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from node.engine import Engine
from node.migration import NotPortable, forget, give, hold, stay, take
from node.session import Session
from tests.support.engine import PATH, Heard, serving


@asynccontextmanager
async def talking(
    heard: Heard | None = None, query: str = "", **options: Any
) -> AsyncIterator[tuple[Engine, Session, aiohttp.ClientWebSocketResponse]]:
    """Run an engine with one session on a WebSocket; gives it, the session, and the client, which is greeted."""
    async with (
        serving(heard, **options) as (engine, url),
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}{PATH}websocket{query}") as client,
    ):
        await client.receive_str()
        [session] = engine.sessions.values()
        yield engine, session, client


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return `state` as it comes out of a format that has bytes, lists, dicts, numbers, texts and None only."""

    def packed(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, dict):
            return {"dict": [[key, packed(each)] for key, each in value.items()]}
        assert not isinstance(value, tuple | set)
        return [packed(each) for each in value] if isinstance(value, list) else value

    def unpacked(value: Any) -> Any:
        if isinstance(value, list):
            return [unpacked(each) for each in value]
        if not isinstance(value, dict):
            return value
        return bytes.fromhex(value["bytes"]) if "bytes" in value else {k: unpacked(each) for k, each in value["dict"]}

    result: dict[str, Any] = unpacked(json.loads(json.dumps(packed(state))))
    return result


async def moved(session: Session, to: Engine) -> Session:
    """Move `session` as a node would: its descriptor is passed on, its state as plain data.  Raises NotPortable."""
    await hold(session)
    try:
        state = through_json(take(session))
    except NotPortable:
        stay(session)
        raise
    sock = None if session.channel is None else socket.socket(fileno=socket.dup(session.channel.fileno()))
    forget(session)
    result = give(to, state)
    if sock is not None:
        channel = result.channel
        assert channel is not None
        await asyncio.get_running_loop().connect_accepted_socket(lambda: channel, sock)
    return result
