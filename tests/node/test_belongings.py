"""What of Socket.IO goes with a session that moves: clients, rooms, numbers of acknowledgements, half a packet."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from node import Server, migration
from node.migration import NotPortable, give, hold, stay, take
from node.peer import MOST_KEPT, Kept
from node.session import Session
from tests.support.raw_socketio import RawClient, talking_to
from tests.support.waiting import eventually, lastingly


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


def session_of(sio: Server, client: RawClient) -> Session:
    return sio.eio.sessions[client.engine_sid]


def test_what_comes_while_a_session_is_held_is_done_afterwards_in_order() -> None:
    """Wherever it goes on then; also more than may wait otherwise."""

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio) as client:
            await client.connect()
            session, moving = session_of(sio, client), sio.eio.handler.moving
            moving.hold(session)
            count = MOST_KEPT + 2000
            await client.say(*(f'2{number}["echo",{number}]' for number in range(count)))
            await eventually(lambda: len(session.client.waiting) == MOST_KEPT)
            await lastingly(lambda: len(session.client.waiting) == MOST_KEPT, 0.1)
            stay(session)
            assert [await client.hear() for _ in range(count)] == [f"3{number}[{number}]" for number in range(count)]
            assert await client.is_served()

    asyncio.run(main())


def test_what_waits_goes_along() -> None:
    """Events, also with attachments, and leaving a namespace."""

    async def main() -> None:
        sio, happened = app()
        async with talking_to(sio) as client:
            await client.connect()
            await client.connect("/other")
            session, moving = session_of(sio, client), sio.eio.handler.moving
            moving.hold(session)
            await client.say('21["echo",1]', '51-2["echo",{"_placeholder":true,"num":0}]', b"\1", "1/other,")
            await eventually(lambda: len(session.client.waiting) == 3)
            state = moving.taken(session)
            assert state["waiting"] == [
                [2, "/", 1, ["echo", 1]],
                [2, "/", 2, ["echo", b"\1"]],
                [1, "/other", None, None],
            ]
            moving.given(session, state)
            assert [await client.hear() for _ in range(3)] == ["31[1]", '61-2[{"_placeholder":true,"num":0}]', b"\1"]
            await eventually(lambda: happened == ["connect", "connect", "disconnect"])
            assert await client.is_served()

    asyncio.run(main())


def test_a_handler_that_waits_for_its_client_gets_the_answer_before_the_session_moves() -> None:
    """What its handler says then is acknowledged here; the next event waits."""

    async def main() -> None:
        sio, _ = app()

        @sio.event
        async def ask_me(sid: str) -> Any:
            return await sio.call("asked", to=sid)

        async with talking_to(sio) as client:
            await client.connect()
            session = session_of(sio, client)
            await client.say('21["ask_me"]')
            assert await client.hear() == '21["asked"]'
            holding = asyncio.ensure_future(hold(session))
            await client.say('22["echo","next"]', '31["the answer"]')
            assert await client.hear() == '31["the answer"]'
            await holding
            state = take(session)
            assert state["client"]["waiting"] == [[2, "/", 2, ["echo", "next"]]]
            stay(session, state)
            assert await client.hear() == '32["next"]'

    asyncio.run(main())


def test_a_handler_that_does_not_end_keeps_its_session_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so in time, and nothing has changed."""
    monkeypatch.setattr(migration, "HOLD_WAIT_S", 0.05)

    async def main() -> None:
        sio, _ = app()
        end = asyncio.Event()

        @sio.event
        async def long(sid: str) -> str:
            await end.wait()
            return "done"

        async with talking_to(sio) as client:
            await client.connect()
            session = session_of(sio, client)
            await client.say('21["long"]', '22["echo","meanwhile"]')
            assert await client.hear() == '32["meanwhile"]'
            with pytest.raises(NotPortable, match="a handler works on it"):
                await hold(session)
            assert await client.is_served()
            end.set()
            assert await client.hear() == '31["done"]'
            await hold(session)
            stay(session)
            assert await client.is_served()

    asyncio.run(main())


def test_who_never_acknowledges_moves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callback stays behind, and whoever waits for it with others hears that it is gone."""
    monkeypatch.setattr(migration, "HOLD_WAIT_S", 0.05)

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio) as client:
            sid = await client.connect()
            session = session_of(sio, client)
            asking = asyncio.ensure_future(sio.broadcast_call("asked", timeout=10))
            assert await client.hear() == '21["asked"]'
            await hold(session)
            stay(session, take(session))
            assert (await asking).missing == (sid,)
            await client.say('31["too late"]')
            assert await client.is_served()

    asyncio.run(main())


def test_with_ordered_handlers_it_is_held_between_two_of_them() -> None:
    """The one that runs ends here; the next begins there."""

    async def main() -> None:
        sio = Server(ordered=True)
        begun, end, done = asyncio.Event(), asyncio.Event(), list[int]()

        @sio.event
        async def step(sid: str, number: int) -> int:
            begun.set()
            await end.wait()
            done.append(number)
            return number

        async with talking_to(sio) as client:
            await client.connect()
            session = session_of(sio, client)
            await client.say(*(f'2{number}["step",{number}]' for number in range(3)))
            await begun.wait()
            await eventually(lambda: len(session.client.waiting) == 2)
            holding = asyncio.ensure_future(hold(session))
            await eventually(lambda: type(session.client.waiting) is Kept)
            end.set()
            await holding
            assert done == [0]
            state = take(session)
            assert [packet[2] for packet in state["client"]["waiting"]] == [1, 2]
            stay(session, state)
            assert [await client.hear() for _ in range(3)] == ["30[0]", "31[1]", "32[2]"]
            assert done == [0, 1, 2]

    asyncio.run(main())


def test_one_that_ends_while_it_is_held_ends_as_any_other() -> None:
    """Its disconnect handler runs, once it is let go."""

    async def main() -> None:
        sio, happened = app()
        async with talking_to(sio) as client:
            await client.connect()
            session, moving = session_of(sio, client), sio.eio.handler.moving
            moving.hold(session)
            session.close("server disconnect")
            with pytest.raises(NotPortable, match="has ended"):
                take(session)
            stay(session)
            await eventually(lambda: happened == ["connect", "disconnect"])

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"greeted": True},
        {"clients": [{"sid": "a", "namespace": "/", "rooms": ["b"], "next_id": 1}]},
        {"partial": {"text": '2["x"]', "attachments": []}},
        {"partial": {"text": "nothing", "attachments": []}},
        {"waiting": [1]},
    ],
)
def test_what_are_no_belongings_leave_nothing_behind(wrong: dict[str, Any]) -> None:
    """A process that is not quite the same gave them."""

    async def main() -> None:
        sio, _ = app()
        async with talking_to(sio) as client:
            await client.connect()
            session = session_of(sio, client)
            await hold(session)
            state = take(session)
            whole = {"greeted": True, "partial": None, "waiting": [], "clients": state["client"]["clients"]}
            bad = {**state, "client": wrong if wrong == {"greeted": True} else {**whole, **wrong}}
            with pytest.raises(NotPortable, match="not the clients of a session"):
                give(sio.eio, bad)
            assert (sio.eio.connections, sio.manager.directory.spaces, len(sio.eio.wheel)) == (0, {}, 0)
            stay(session, state)
            assert await client.is_served()

    asyncio.run(main())
