"""A session as a value: everything that must survive a move to another process, as plain data that msgpack could carry.

    await hold(session); state = take(session); …state and descriptor go to the other process…; forget(session)
    there: session = give(engine, state); await loop.connect_accepted_socket(lambda: session.channel, sock)

A held session hears nothing and says nothing.  What is sent to it waits, and goes with it if it is sent before `take`;
afterwards nobody here can reach it.  So clients that hear each other, those of a room, are held, taken and given all
together: `hold_all`, then `take` and `give` for each without an `await` in between.

    held      no handler begins; those that run may end, and get the acknowledgements that they wait for
    quiet     nothing of it runs; then nothing is read, and what was written leaves
    taken     this process only has its connection, until `forget`; if the move fails, `stay` lets it go on here

Who is not quiet within HOLD_WAIT_S, or whose client has not read everything within DRAIN_WAIT_S, cannot be moved; the
client is closed with 1001 and comes back by itself (`send_away`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

from cluster.closing import CloseCode
from node.channel import Channel, ChannelState, NotQuiet
from node.engine import Engine
from node.farewell import OnEnd
from node.plain import NotPortable, check_plain
from node.polling import Polling
from node.reader import HalfRead
from node.refusal import WEBSOCKET
from node.session import SERVER_LEAVES, Session

__all__ = ["NotPortable", "forget", "give", "hold", "hold_all", "send_away", "stay", "take"]

log = logging.getLogger(__name__)

VERSION = 2
"""Of the structure.  A process refuses what it does not know, and the client is sent away instead."""

HOLD_WAIT_S = 1.0
"""What its handlers may take to end, and its client to acknowledge what it was asked."""

DRAIN_WAIT_S = 1.0
"""What its client may take to read what its transport holds."""


async def hold(session: Session) -> None:
    """Stop a session.  Raises NotPortable; then it goes on as before."""
    if not session.is_open:
        raise NotPortable("it has ended")
    moving = session.engine.handler.moving
    moving.hold(session)
    try:
        if not await moving.quiet(session, HOLD_WAIT_S):
            raise NotPortable("a handler works on it")
        if session.channel is not None:
            await _drained(session.channel)
        if not session.is_open:
            raise NotPortable("it has ended")
        # Nobody reads pongs now; `give` and `stay` take the heartbeat up again.
        session.engine.wheel.remove(session)
    except BaseException:
        _release(session)
        raise


async def _drained(channel: Channel) -> None:
    channel.hold()
    drained = asyncio.Event()
    channel.when_drained(drained.set)
    try:
        async with asyncio.timeout(DRAIN_WAIT_S):
            await drained.wait()
    except TimeoutError:
        raise NotPortable("its client reads too slowly") from None


async def hold_all(sessions: Iterable[Session]) -> list[Session]:
    """Stop many at once; return those that are held.  The others are sent away."""
    every = list(sessions)
    held = await asyncio.gather(*(_is_held(session) for session in every))
    return [session for session, is_held in zip(every, held, strict=True) if is_held]


async def _is_held(session: Session) -> bool:
    try:
        await hold(session)
    except NotPortable as exc:
        send_away(session, str(exc))
        return False
    return True


def send_away(session: Session, why: str) -> None:
    """Close a session that cannot be moved so that its client comes back by itself, elsewhere."""
    log.info("client sent away: its session cannot be moved", extra={"sid": session.sid, "reason": why})
    session.close(SERVER_LEAVES, code=CloseCode.GOING_AWAY)


def _release(session: Session) -> None:
    if session.channel is not None:
        session.channel.release()
    session.engine.handler.moving.release(session)


def stay(session: Session, state: dict[str, Any] | None = None) -> None:
    """Let a held session go on here, `state` if it was taken."""
    if state is not None:
        session.engine.take_in(session, state["is_pinged"], state["heartbeat_s"])
        session.engine.handler.moving.given(session, state["client"])
    elif session.is_open:
        session.engine.take_in(session, *session.heartbeat(session.engine.time()))
    _release(session)


def take(session: Session) -> dict[str, Any]:
    """Return a held session as plain data; its engine and its handler have forgotten it.

    Raises NotPortable; then nothing has changed, and `stay` lets it go on.
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
    check_plain(state, "session")
    state["client"] = session.engine.handler.moving.taken(session)
    session.engine.let_go(session)
    return state


def forget(session: Session) -> None:
    """Let go of the connection of a session that another process has now: its client hears nothing of it."""
    if session.channel is not None:
        session.channel.give_away()


def give(engine: Engine, state: dict[str, Any], *, on_end: OnEnd | None = None) -> Session:
    """Return the session that goes on from `state`, and tell the engine's handler.

    Raises NotPortable; then nothing of it is here.

    One on a WebSocket has a channel that is not connected yet; `on_end` is called when its connection is gone.
    """
    if state.get("version") != VERSION:
        raise NotPortable(f"a session of version {state.get('version')!r}, not {VERSION}")
    if engine.leaving:
        raise NotPortable("this node leaves")
    if state.get("sid") in engine.sessions:
        raise NotPortable("it is here already")
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
    try:
        engine.handler.moving.given(session, client)
    except NotPortable:
        engine.let_go(session)
        raise
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
