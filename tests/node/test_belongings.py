"""What of Socket.IO goes with a session that moves: clients, rooms, numbers of acknowledgements, half a packet."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from node import Server
from node.migration import NotPortable
from tests.support.raw_socketio import RawClient, talking_to
from tests.support.waiting import eventually


def app() -> tuple[Server, list[str]]:
    sio, happened = Server(namespaces="*"), list[str]()
    for namespace in ("/", "/other"):
        sio.on("connect", lambda sid, environ: happened.append("connect"), namespace=namespace)
        sio.on("disconnect", lambda sid, reason: happened.append("disconnect"), namespace=namespace)
        sio.on("echo", lambda sid, data: data, namespace=namespace)
    return sio, happened


def moved(sio: Server, client: RawClient) -> dict[str, Any]:
    """Take the session's clients away and give them back, as another process would get them."""
    session, moving = sio.eio.sessions[client.engine_sid], sio.eio.handler.moving
    moving.hold(session)
    try:
        state = moving.taken(session)
    except NotPortable:
        moving.release(session)
        raise
    assert sio.manager.directory.spaces == {}
    assert sio.manager.callbacks == {}
    session.client = None
    moving.given(session, state)
    plain: dict[str, Any] = state
    return plain


def test_clients_are_in_the_same_rooms_afterwards_and_handlers_hear_nothing_of_it() -> None:
    """The sids stay; events, emits and rooms go on."""

    async def main() -> None:
        sio, happened = app()
        async with talking_to(sio) as client:
            sid, other = await client.connect(), await client.connect("/other")
            await sio.enter_room(sid, "red")
            await sio.enter_room(other, 7, namespace="/other")
            state = moved(sio, client)
            json.dumps(state)
            assert (sio.rooms(sid), sio.rooms(other, namespace="/other")) == ([sid, "red"], [other, 7])
            assert await client.is_served()
            await sio.emit("x", 1, to=7, namespace="/other")
            assert await client.hear() == '2/other,["x",1]'
            assert happened == ["connect", "connect"]
            await client.close()
            await eventually(lambda: happened[2:] == ["disconnect", "disconnect"])

    asyncio.run(main())


def test_an_acknowledgement_that_comes_after_the_move_is_nobody_elses() -> None:
    """Its callback stayed behind; the next event has a number of its own."""

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio) as client:
            sid = await client.connect()
            answers: list[Any] = []
            await sio.emit("first", to=sid, callback=lambda *data: answers.append(("first", data)))
            assert await client.hear() == '21["first"]'
            moved(sio, client)
            await sio.emit("second", to=sid, callback=lambda *data: answers.append(("second", data)))
            assert await client.hear() == '22["second"]'
            await client.say("31[]", "32[]")
            await eventually(lambda: answers == [("second", ())])

    asyncio.run(main())


def test_half_a_packet_goes_along() -> None:
    """Its attachments come to the other process."""

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio) as client:
            await client.connect()
            await client.say('52-1["echo",[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]]', b"a")
            peer = sio.eio.sessions[client.engine_sid].client
            await eventually(lambda: peer.partial is not None and peer.partial.missing == 1)
            moved(sio, client)
            answer = await client.ask(b"b")
            assert answer == '62-1[[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]]'
            assert [await client.hear(), await client.hear()] == [b"a", b"b"]

    asyncio.run(main())


def test_a_session_that_a_handler_decides_about_does_not_move() -> None:
    """It is not known yet whether it may be here at all; a moment later it can."""

    async def main() -> None:
        sio, _ = app()
        deciding, decide = asyncio.Event(), asyncio.Event()

        @sio.on("connect", namespace="/slow")
        async def connect(sid: str, environ: Any) -> None:
            deciding.set()
            await decide.wait()

        async with talking_to(sio) as client:
            await client.connect()
            await client.say("0/slow,")
            await deciding.wait()
            with pytest.raises(NotPortable, match="a handler works on it"):
                moved(sio, client)
            decide.set()
            assert str(await client.hear()).startswith("0/slow,")
            session = sio.eio.sessions[client.engine_sid]
            await eventually(lambda: session.client.waiting is None)
            moved(sio, client)
            assert await client.is_served()

    asyncio.run(main())


def test_one_that_moves_before_it_has_connected_is_watched_here() -> None:
    """The time to connect begins anew."""

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio, connect_timeout_s=0.3) as client:
            await eventually(lambda: sio.eio.connections == 1)
            moved(sio, client)
            assert await client.hear() is None

    asyncio.run(main())
