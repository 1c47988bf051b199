"""A session as a value: everything that must survive a move to another process, as plain data that msgpack could carry.

    await hold(session); state = take(session); …state and descriptor go to the other process…; forget(session)
    there: session = give(engine, state); await loop.connect_accepted_socket(lambda: session.channel, sock)

What is sent to a held session waits, and goes with it if it is sent before `take`; nobody can send to it afterwards.
`stay(session, state)` lets it go on where it was, if the move fails.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from node.channel import Channel, ChannelState, NotQuiet
from node.engine import Engine
from node.polling import Polling
from node.reader import HalfRead
from node.refusal import WEBSOCKET
from node.session import Session

VERSION = 1
"""Of the structure.  A process refuses what it does not know, and the client is sent away instead."""

HOLD_WAIT_S = 1.0
"""What a client may take to read what its transport holds."""


class NotPortable(Exception):
    """A session cannot be moved now, or what came is no session of this version."""


async def hold(session: Session) -> None:
    """Stop a session: nothing is received, and what is sent waits.  Raises NotPortable; then it goes on as before."""
    channel = session.channel
    if channel is None:
        return
    channel.hold()
    drained = asyncio.Event()
    channel.when_drained(drained.set)
    try:
        async with asyncio.timeout(HOLD_WAIT_S):
            await drained.wait()
    except TimeoutError:
        channel.release()
        raise NotPortable("its client reads too slowly") from None


def stay(session: Session, state: dict[str, Any] | None = None) -> None:
    """Let a held session go on here, `state` if it was taken."""
    if state is not None:
        session.engine.handler.given(session, state["client"])
    if session.channel is not None:
        session.channel.release()


def take(session: Session) -> dict[str, Any]:
    """Return a held session as plain data; its handler has no clients in it any more.

    Raises NotPortable; then nothing has changed.
    """
    if not session.is_open:
        raise NotPortable("it has ended")
    is_pinged, left_s = session.heartbeat(session.engine.time())
    state = {
        "version": VERSION,
        "sid": session.sid,
        "transport": session.transport,
        "head": session.head,
        "remote": session.remote,
        "is_pinged": is_pinged,
        "heartbeat_s": left_s,
        "data": session.data,
        **(_exported_polling(session) if session.channel is None else _exported_channel(session.channel)),
    }
    _check_plain(state, "session")
    state["client"] = session.engine.handler.taken(session)
    return state


def forget(session: Session) -> None:
    """Forget a session that another process has now: neither its client nor its handler hears of an end."""
    session.engine.let_go(session)
    if session.channel is not None:
        session.channel.give_away()


def give(engine: Engine, state: dict[str, Any], *, on_end: Callable[[], None] | None = None) -> Session:
    """Return the session that goes on from `state`, and tell the engine's handler.  Raises NotPortable.

    One on a WebSocket has a channel that is not connected yet; `on_end` is called when its connection is gone.
    """
    if state.get("version") != VERSION:
        raise NotPortable(f"a session of version {state.get('version')!r}, not {VERSION}")
    engine.settle()
    try:
        session = Session(engine, state["sid"], state["head"], state["remote"])
        session.data = state["data"]
        if state["transport"] == WEBSOCKET:
            channel_state = ChannelState(HalfRead(**state["half"]), state["unsent"], state["deflates"])
            session.channel = Channel.from_state(channel_state, session, engine.limits, on_end=on_end)
        else:
            session.polling = Polling(session)
            session.polling.take_back(state["waiting"])
        client, heartbeat = state["client"], (state["is_pinged"], state["heartbeat_s"])
    except (KeyError, TypeError, ValueError) as exc:
        raise NotPortable(f"not a session: {exc!r}") from None
    engine.take_in(session, *heartbeat)
    engine.handler.given(session, client)
    return session


def _exported_channel(channel: Channel) -> dict[str, Any]:
    try:
        state = channel.export()
    except NotQuiet as exc:
        raise NotPortable(str(exc)) from None
    return {"half": dataclasses.asdict(state.half), "unsent": state.unsent, "deflates": state.deflates}


def _exported_polling(session: Session) -> dict[str, Any]:
    assert session.polling is not None
    waiting = session.polling.export()
    if waiting is None:
        raise NotPortable("its client is just polling, posting or probing")
    return {"waiting": waiting}


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise NotPortable(f"{where} has a key of type {type(key).__name__}")
            _check_plain(each, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for each in value:
            _check_plain(each, f"{where}[]")
    elif not isinstance(value, bytes | str | int | float | None):
        raise NotPortable(f"{where} is of type {type(value).__name__}")
