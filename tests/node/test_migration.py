"""A session is a value: it goes on in another engine, with the connection's descriptor."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from node import migration
from node.migration import NotPortable, forget, give, hold, hold_all, stay, take
from tests.support.engine import PATH, Heard, message, polled_session, serving
from tests.support.migrating import moved, talking, through_json
from tests.support.waiting import eventually, lastingly
from tests.support.websockets import client_frame
from tests.support.websockets import opened as opened_websocket

INTERVAL_S = 0.4


def test_a_session_on_a_websocket_moves_with_everything_that_belongs_to_it() -> None:
    """Sid, user session, environ, what waits for the client; neither handler hears of an end, nor does the client."""

    async def main() -> None:
        there = Heard()
        here = Heard()
        async with (
            talking(here, query="&token=t") as (old, session, client),
            serving(there) as (new, _),
        ):
            await client.send_str("4one")
            assert await client.receive_str() == "4one"
            (await old.get_session(session.sid))["name"] = "ann"
            sid = session.sid
            await hold(session)
            session.send(message("waits"))
            session = await moved(session, new)
            assert (old.connections, len(old.lingering), len(old.wheel)) == (0, 0, 0)
            assert list(new.sessions) == [sid] == there.sids
            await client.send_str("4two")
            assert [await client.receive_str() for _ in range(2)] == ["4waits", "4two"]
            assert await new.get_session(sid) == {"name": "ann"}
            assert session.environ["QUERY_STRING"].endswith("token=t")
            assert session.environ["REMOTE_ADDR"] == "127.0.0.1"
            assert (here.reasons, there.reasons) == ([], [])
            await new.close_all(1)
            assert here.reasons == []
            assert len(there.reasons) == 1

    asyncio.run(main())


def test_a_half_read_frame_moves_with_it() -> None:
    """The rest of it comes to the other process."""

    async def main() -> None:
        there = Heard()
        async with (
            talking() as (_, session, client),
            serving(there) as (new, _),
        ):
            frame = client_frame(0x81, b"4a longer message", mask=b"abcd")
            transport = client._conn.transport  # type: ignore[union-attr]
            transport.write(frame[:9])  # type: ignore[union-attr]
            await eventually(lambda: session.channel and session.channel._reader, what="half a frame was read")
            await moved(session, new)
            transport.write(frame[9:])  # type: ignore[union-attr]
            assert await client.receive_str() == "4a longer message"
            assert there.messages == ["a longer message"]

    asyncio.run(main())


def test_the_heartbeat_goes_on_where_it_was() -> None:
    """A ping that is due is sent by the new process, no later than by the old one; a pong is heard there."""

    async def main() -> None:
        options: dict[str, Any] = {"ping_interval": INTERVAL_S, "ping_timeout": 30.0}
        async with (
            talking(**options) as (_, session, client),
            serving(**options) as (new, _),
        ):
            due_at = session._at
            session = await moved(session, new)
            assert session._at == pytest.approx(due_at, abs=0.001)
            assert new.wheel.sits_until(session) <= session._at
            for _ in range(3):
                assert await client.receive_str() == "2"
                await client.send_str("3")
            assert session.is_open

    asyncio.run(main())


def test_a_polling_session_moves_between_its_requests() -> None:
    """With what waits for the client, in order; not while a request of it is under way."""

    async def main() -> None:
        async with serving() as (old, url), serving() as (new, elsewhere), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            [session] = old.sessions.values()
            session.send(message("one"))
            session.send(message(b"\1"))
            await hold(session)
            state = through_json(take(session))
            forget(session)
            give(new, state)
            async with http.get(address.replace(url, elsewhere)) as answer:
                assert await answer.text() == "4one\x1ebAQ=="
            poll = asyncio.ensure_future(http.get(address.replace(url, elsewhere)))
            [session] = new.sessions.values()
            await eventually(lambda: session.polling and session.polling.has_poll)
            with pytest.raises(NotPortable, match="just polling"):
                take(session)
            session.send(message("x"))
            (await poll).release()

    asyncio.run(main())


def test_a_move_that_fails_lets_the_session_go_on() -> None:
    """Nobody took it."""

    async def main() -> None:
        heard = Heard()
        async with talking(heard) as (_, session, client):
            await hold(session)
            state = take(session)
            await client.send_str("4x")
            stay(session, state)
            assert await client.receive_str() == "4x"
            assert heard.sids == [session.sid] * 2

    asyncio.run(main())


def test_what_is_not_plain_data_cannot_be_moved() -> None:
    """It says where; the session goes on."""

    async def main() -> None:
        async with talking() as (_, session, _):
            with pytest.raises(NotPortable, match="not held"):
                take(session)
            await hold(session)
            for value, said in (({"a": [object()]}, r"session\['data'\]\['a'\]\[\] is of type object"),
                                ({(1, 2): 1}, "key of type tuple")):  # fmt: skip
                session.data = value
                with pytest.raises(NotPortable, match=said):
                    take(session)
            stay(session)
            session.close("server disconnect")
            with pytest.raises(NotPortable, match="has ended"):
                take(session)

    asyncio.run(main())


def test_what_waits_may_be_much_and_more_may_be_sent_before_the_connection_is_there() -> None:
    """In order; more than one write takes."""

    async def main() -> None:
        async with (
            talking() as (_, session, client),
            serving() as (new, _),
        ):
            await hold(session)
            for number in range(10):
                session.send(message(f"{number} {'x' * 10_000}"))
            state = take(session)
            channel = session.channel
            assert channel is not None
            sock = socket.socket(fileno=socket.dup(channel.fileno()))
            forget(session)
            session = give(new, state)
            for number in range(10, 12):
                session.send(message(f"{number} {'x' * 10_000}"))
            arrived = session.channel
            assert arrived is not None
            await asyncio.get_running_loop().connect_accepted_socket(lambda: arrived, sock)
            session.send(message("12 last"))
            heard = [(await client.receive_str()).split()[0] for _ in range(13)]
            assert heard == [f"4{number}" for number in range(13)]

    asyncio.run(main())


def test_a_held_session_that_is_closed_says_all_that_waits_and_goodbye() -> None:
    """Its node may be told to stop meanwhile."""

    async def main() -> None:
        heard = Heard()
        async with talking(heard) as (old, session, client):
            await hold(session)
            session.send(message("last"))
            closing = asyncio.ensure_future(old.close_all(5))
            assert await client.receive_str() == "4last"
            assert (await client.receive()).data == 1001
            assert await closing == 0
            with pytest.raises(NotPortable, match="has ended"):
                take(session)
            stay(session)
            with pytest.raises(NotPortable, match="has ended"):
                await hold(session)
            assert heard.reasons == ["server leaves"]

    asyncio.run(main())


def test_a_pong_that_came_while_nobody_read_is_in_time() -> None:
    """The time for it was over when the session arrived, or when it stayed."""

    async def main() -> None:
        options: dict[str, Any] = {"ping_interval": INTERVAL_S, "ping_timeout": INTERVAL_S}
        async with talking(**options) as (old, session, client):
            assert await client.receive_str() == "2"
            await hold(session)
            await client.send_str("3")
            await lastingly(lambda: session.is_open, INTERVAL_S * 1.5)
            assert session.heartbeat(old.time()) == (True, 0.0)
            state = take(session)
            stay(session, state)
            assert await client.receive_str() == "2"
            assert session.is_open

    asyncio.run(main())


def test_who_cannot_be_held_is_sent_away_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here because its client does not read."""
    monkeypatch.setattr(migration, "DRAIN_WAIT_S", 0.1)

    async def main() -> None:
        heard = Heard()
        async with (
            serving(heard) as (old, url),
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{url}{PATH}websocket") as client,
        ):
            await client.receive_str()
            port = int(url.rpartition(":")[2])
            slow = await asyncio.to_thread(opened_websocket, port, f"{PATH}websocket")
            with slow:
                await eventually(lambda: old.connections == 2)
                quick, stuck = old.sessions.values()
                stuck.send(message(bytes(16_000_000)))
                assert await hold_all([quick, stuck]) == [quick]
                assert heard.reasons == ["server leaves"]
                frames = await asyncio.to_thread(slow.hear_all)
                assert [len(frame.payload) for frame in frames[1:-1]] == [16_000_000]
                assert frames[-1].code == 1001
            stay(quick)
            await client.send_str("4x")
            assert await client.receive_str() == "4x"

    asyncio.run(main())


def test_a_session_is_nowhere_twice_nor_where_all_must_leave() -> None:
    """Its own process keeps it then."""

    async def main() -> None:
        async with serving() as (old, url), serving() as (new, _), aiohttp.ClientSession() as http:
            await polled_session(http, url)
            [session] = old.sessions.values()
            await hold(session)
            state = take(session)
            give(new, state)
            with pytest.raises(NotPortable, match="here already"):
                give(new, state)
            old.leave()
            with pytest.raises(NotPortable, match="leaves"):
                give(old, state)
            assert (old.connections, new.connections) == (0, 1)

    asyncio.run(main())


@pytest.mark.parametrize("state", [{}, {"version": 1}, {"version": 2}, {"version": 2, "sid": "x", "half": 1}])
def test_what_is_no_session_of_this_version_is_refused(state: dict[str, Any]) -> None:
    """And nothing of it stays."""

    async def main() -> None:
        async with serving() as (engine, _):
            with pytest.raises(NotPortable):
                give(engine, state)
            assert engine.connections == 0

    asyncio.run(main())
