"""What is asked of all nodes: answers come from those that have such clients, and who does not answer is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import socketio

from cluster.channels import Channels
from cluster.redis_link import connection
from node import Server, share
from node.codec import MAIN
from node.fate import Fate
from node.outcome import RemoteSocket
from node.wire import Answer, Ask, encode
from tests.support.nodes import node_here
from tests.support.raw_socketio import RawClient, raw_client
from tests.support.rooms_nodes import rooms_nodes
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly


class Seat:
    """A node in this process, and one client of it."""

    def __init__(self, sio: Server, client: RawClient, sid: str) -> None:
        self.sio, self.client, self.sid = sio, client, sid

    @property
    def name(self) -> str:
        return self.sio.node.name

    @property
    def received(self) -> int:
        """Messages of other nodes that came here."""
        received: int = self.sio.manager.post.bus.figures().received
        return received


@asynccontextmanager
async def seats(redis: str, count: int = 3) -> AsyncIterator[list[Seat]]:
    """Run nodes that know each other, each with one client."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            sio = Server(namespaces="*")
            url = await stack.enter_async_context(node_here(sio, redis=redis, lease_s=3.0))
            client = await stack.enter_async_context(raw_client(url))
            found.append(Seat(sio, client, await client.connect()))
            await sio.save_session(found[-1].sid, {"number": number})
        for seat in found if redis != "none" else ():
            await eventually(partial(_counts, seat, count), what="they know each other")
        yield found


async def _counts(seat: Seat, count: int) -> bool:
    return await seat.sio.server_count() == count


def test_clients_of_all_nodes_are_found(valkey: Valkey) -> None:
    """With their node, rooms, session and handshake; in one room, of one sid, or not in another."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            await two.sio.enter_room(two.sid, "red")
            await two.sio.enter_room(two.sid, ("a", 1))
            await two.sio.save_session(two.sid, {"list": [1, [2]], "b": b"\xff", "object": object()})
            found = await one.sio.fetch_sockets()
            assert found.complete
            assert {each.sid: each.node for each in found} == {seat.sid: seat.name for seat in (one, two, three)}
            [socket] = await one.sio.fetch_sockets("red")
            assert socket.rooms == {"red", ("a", 1)}
            assert socket.session == {"list": [1, [2]], "b": b"\xff"}
            assert socket.handshake.address == "127.0.0.1"
            assert socket.handshake.path == "/socket.io/"
            assert socket.handshake.query == {"EIO": "4", "transport": "websocket"}
            assert socket.handshake.headers["upgrade"] == "websocket"
            assert [each.sid for each in await one.sio.fetch_sockets(three.sid)] == [three.sid]
            assert [each.sid for each in await one.sio.fetch_sockets(one.sid)] == [one.sid]
            assert {each.sid for each in await one.sio.fetch_sockets([three.sid, "red"])} == {two.sid, three.sid}
            assert {each.sid for each in await one.sio.fetch_sockets(except_rooms="red")} == {one.sid, three.sid}
            assert await one.sio.fetch_sockets([]) == []
            assert await one.sio.fetch_sockets(namespace="/nobody") == []

    asyncio.run(main())


def test_only_nodes_with_members_hear_of_it(valkey: Valkey) -> None:
    """The others do not even receive the question; neither do nodes that a sid does not name."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            await two.sio.enter_room(two.sid, "red")
            before = three.received
            for to in ("red", two.sid, "nobody's room"):
                assert (await one.sio.fetch_sockets(to)).complete
                assert (await one.sio.sockets_join("blue", to)).complete
            assert three.received == before

    asyncio.run(main())


def test_clients_enter_and_leave_wherever_they_are(valkey: Valkey) -> None:
    """When the call returns it is done, and the count says for how many."""

    async def main() -> None:
        async with seats(valkey.url) as nodes:
            one, two, three = nodes
            outcome = await one.sio.sockets_join(["red", "blue"])
            assert (outcome.clients, outcome.complete) == (3, True)
            for seat in nodes:
                assert set(seat.sio.rooms(seat.sid)) == {seat.sid, "red", "blue"}
            assert (await three.sio.sockets_leave("blue", [one.sid, two.sid])).clients == 2
            assert {each.sid for each in await two.sio.fetch_sockets("blue")} == {three.sid}
            assert (await three.sio.sockets_leave("red", "red", except_rooms="blue")).clients == 2
            assert {each.sid for each in await two.sio.fetch_sockets("red")} == {three.sid}

    asyncio.run(main())


def test_clients_are_disconnected_wherever_they_are(valkey: Valkey) -> None:
    """Their handlers have run when the call returns; those outside the room stay."""

    async def main() -> None:
        async with seats(valkey.url) as nodes:
            one, two, three = nodes
            gone: list[str] = []
            for seat in nodes:
                seat.sio.on("disconnect", lambda sid, reason: gone.append(sid))
            await one.sio.sockets_join("red", [one.sid, two.sid])
            outcome = await three.sio.disconnect_sockets("red")
            assert (outcome.clients, outcome.complete) == (2, True)
            assert sorted(gone) == sorted([one.sid, two.sid])
            assert await two.client.hear() == "1"
            assert [each.sid for each in await one.sio.fetch_sockets()] == [three.sid]

    asyncio.run(main())


def test_servers_talk_to_servers(valkey: Valkey) -> None:
    """Handlers of all others run, and not one's own; what they return comes back by name, and that one failed."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            heard: list[Any] = []

            @two.sio.on_server_side("add")
            async def add(first: int, second: int) -> dict[str, int]:
                return {"sum": first + second}

            @two.sio.on_server_side("news")
            def news(*arguments: Any) -> None:
                heard.append(arguments)

            @three.sio.on_server_side("add")
            def broken(*_: Any) -> None:
                raise RuntimeError("of the application")

            one.sio.on_server_side("news", lambda *arguments: heard.append("not the others"))
            assert await one.sio.server_side_emit("news", [1], {"b": b"x"}) is Fate.SENT
            await eventually(lambda: heard)
            assert heard == [([1], {"b": b"x"})]
            replies = await one.sio.server_side_call("add", 2, 3)
            assert replies.given == {two.name: {"sum": 5}}
            assert replies.failed == {three.name: "it could not: RuntimeError"}
            assert replies.missing == ()
            replies = await one.sio.server_side_call("unknown")
            assert replies.failed[two.name] == "it could not: no handler of 'unknown'"
            with pytest.raises(TypeError, match="cannot go to other nodes"):
                await one.sio.server_side_emit("news", object())

    asyncio.run(main())


def test_an_answer_that_cannot_travel_is_a_failure_of_that_node(valkey: Valkey) -> None:
    """Nobody waits for it."""

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two]:
            two.sio.on_server_side("odd", object)
            replies = await one.sio.server_side_call("odd")
            assert replies.failed[two.name].startswith("it could not: this cannot go to other nodes")

    asyncio.run(main())


def test_a_handler_that_takes_too_long_is_named(valkey: Valkey) -> None:
    """What others said counts."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            never = asyncio.Event()
            two.sio.on_server_side("wait", never.wait)
            three.sio.on_server_side("wait", lambda: "at once")
            replies = await one.sio.server_side_call("wait", timeout=0.4)
            assert (replies.given, replies.missing, replies.complete) == ({three.name: "at once"}, (two.name,), False)
            assert not one.sio.manager.questions.pending

    asyncio.run(main())


async def _acknowledging(client: RawClient, *answers: Any) -> None:
    """Acknowledge the next event."""
    packet = await client.hear()
    assert isinstance(packet, str)
    id_ = packet[1 : packet.index("[")]
    await client.say(f"3{id_}{json.dumps(list(answers))}")


def test_clients_of_all_nodes_answer(valkey: Valkey) -> None:
    """By sid; several arguments are a tuple, as with `call`; who does not answer is named."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            calling = asyncio.ensure_future(one.sio.broadcast_call("q", {"a": [1]}, timeout=60, skip_sid=[]))
            await _acknowledging(one.client)
            await _acknowledging(two.client, [1, [2]])
            await _acknowledging(three.client, 1, 2)
            answers = await calling
            assert answers.complete
            assert answers.given == {one.sid: None, two.sid: [1, [2]], three.sid: (1, 2)}
            calling = asyncio.ensure_future(one.sio.broadcast_call("q", timeout=2, skip_sid=three.sid))
            await _acknowledging(two.client, "yes")
            answers = await calling
            assert answers.given == {two.sid: "yes"}
            assert answers.missing == (one.sid,)
            assert answers.missing_nodes == ()

    asyncio.run(main())


def test_who_leaves_before_it_answers_is_not_waited_for(valkey: Valkey) -> None:
    """Neither by `broadcast_call` nor by `call`, wherever it is; and who never was there is not, either."""

    async def main() -> None:
        async with seats(valkey.url) as [one, two, three]:
            calling = asyncio.ensure_future(one.sio.broadcast_call("q", to=[two.sid, three.sid], timeout=600))
            await _acknowledging(two.client, "yes")
            await three.client.hear()
            await three.client.close()
            async with asyncio.timeout(30):
                answers = await calling
                assert (answers.given, answers.missing) == ({two.sid: "yes"}, (three.sid,))
                with pytest.raises(socketio.exceptions.TimeoutError):
                    await one.sio.call("q", to=three.sid, timeout=600)
            calling_one = asyncio.ensure_future(one.sio.call("q", (1, 2), to=two.sid))
            await _acknowledging(two.client, "a", "b")
            assert await calling_one == ("a", "b")

    asyncio.run(main())


def test_a_process_alone_does_it_all_alone() -> None:
    """With `redis: none`."""

    async def main() -> None:
        async with seats("none", 1) as [one]:
            [socket] = await one.sio.fetch_sockets()
            assert isinstance(socket, RemoteSocket)
            assert (socket.sid, socket.node, socket.session) == (one.sid, one.name, {"number": 0})
            assert (await one.sio.sockets_join("red")).clients == 1
            assert (await one.sio.sockets_leave("red", "red")).clients == 1
            assert await one.sio.server_count() == 1
            assert await one.sio.server_side_emit("x") is Fate.LOCAL
            assert (await one.sio.server_side_call("x")).given == {}
            calling = asyncio.ensure_future(one.sio.broadcast_call("q"))
            await _acknowledging(one.client, 1)
            assert (await calling).given == {one.sid: 1}
            assert (await one.sio.disconnect_sockets()).clients == 1

    asyncio.run(main())


def test_answers_about_many_come_in_pieces(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them count, on either side."""
    monkeypatch.setattr(share, "AT_ONCE", 1)

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two], AsyncExitStack() as stack:
            for seat in (one, two):
                for _ in range(3):
                    url = f"http://127.0.0.1:{seat.sio.node.port}"
                    await (await stack.enter_async_context(raw_client(url))).connect()
            assert len({each.sid for each in await one.sio.fetch_sockets()}) == 8
            assert (await one.sio.sockets_join("red")).clients == 8
            assert (await one.sio.sockets_leave("red", "red")).clients == 8
            answers = await one.sio.broadcast_call("q", timeout=0.2)
            assert len(answers.missing) == 8
            assert (await one.sio.disconnect_sockets()).clients == 8

    asyncio.run(main())


def test_a_room_that_none_may_enter_is_refused_everywhere(valkey: Valkey) -> None:
    """The room of a client: here with an exception, elsewhere as that node's failure."""

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two]:
            with pytest.raises(ValueError, match="cannot enter a sid room"):
                await one.sio.sockets_join(two.sid)
            outcome = await one.sio.sockets_join(one.sid, two.sid)
            assert outcome.failed == {two.name: "it could not: cannot enter a sid room"}
            assert not outcome.complete

    asyncio.run(main())


def test_who_is_given_up_by_the_registry_is_not_waited_for(valkey: Valkey) -> None:
    """It hangs: its connection to Redis is still there, and its lease has ended."""

    async def main() -> None:
        async with rooms_nodes(*[valkey.url] * 3) as [one, two, three]:
            asked = asyncio.Event()
            await two.client("red")
            two.fanout.questions.serve("share", lambda arguments, reply: asked.set())
            finding = asyncio.ensure_future(one.sio.fetch_sockets("red", timeout=600))
            await asked.wait()
            await eventually(lambda: three.post.lag.count, what="the roll is called")
            one.peers.remove(two.name)
            async with asyncio.timeout(30):
                found = await finding
            assert (list(found), found.missing) == ([], ())

    asyncio.run(main())


def test_redis_dies_while_somebody_waits(valkey: Valkey) -> None:
    """Until the time is over; those of whom nothing is known are missing."""

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two]:
            asked = asyncio.Event()

            @two.sio.on_server_side("wait")
            async def wait() -> None:
                asked.set()
                await asyncio.Event().wait()

            calling = asyncio.ensure_future(one.sio.server_side_call("wait", timeout=1))
            await asked.wait()
            valkey.kill()
            replies = await calling
            assert (replies.given, replies.missing) == ({}, (two.name,))

    asyncio.run(main())


def test_redis_away_is_not_waited_for(valkey: Valkey) -> None:
    """What is known here is told at once, and all others are missing; what lasts is done when Redis is back."""

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two]:
            valkey.kill()
            bus = one.sio.manager.post.bus
            await eventually(lambda: bus.health > 0)
            found = await one.sio.fetch_sockets(timeout=600)
            assert [each.sid for each in found] == [one.sid]
            assert found.missing == (two.name,)
            joined = await one.sio.sockets_join("red", timeout=600)
            assert (joined.clients, joined.missing) == (1, (two.name,))
            assert await one.sio.server_count() == 2, "as last known"
            valkey.start()
            await eventually(lambda: "red" in two.sio.rooms(two.sid))

    asyncio.run(main())


def test_nonsense_from_redis_is_a_failure_of_who_says_it(valkey: Valkey) -> None:
    """Whoever can write to Redis can answer for nodes: nothing breaks, and nobody waits for long."""
    nonsense: list[Any] = [
        None,
        1,
        (),
        (1, 2, 3),
        (False, (99,), ()),
        (False, ("x",), ()),
        (False, (), 1),
        (False, (), ((1, 2),)),
        (False, (), (("s", "/", "n", (), {}, "a", "no head"),)),
        (False, (), (("s", "/", "n", (), {}, "a", b"no head"),)),
        (False, (), (("s", "/", "n", ({},), {}, "a", b"GET / HTTP/1.1"),)),
        (False, (), (), ()),
    ]

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two], connection(valkey.url) as link:
            channels = Channels("flotilla")
            asker = one.sio.manager.asker
            asking = asyncio.ensure_future(one.sio.fetch_sockets(timeout=1))
            await asyncio.sleep(0)
            number = asker.questions._number
            for place, value in enumerate(nonsense):
                payload = encode(b"hostile!", place, 0, Answer(number, f"x{place}", value))
                await link.publish(channels.node(one.name).name, payload)
            found = await asking
            assert {each.sid for each in found} == {one.sid, two.sid}
            assert set(found.failed.values()) <= {"its answer is not understood"}
            for place, words in enumerate([(), ("id",), (1, 2, 3, 4), ("id", ((9, b"x"),), "fetch", 5)]):
                payload = encode(b"hostile?", place, 0, Ask("share", words, 1, "nobody"))
                await link.publish(channels.node(two.name).name, payload)
            for place, deed in enumerate(("paint", "fetch", "join", "ask", "tell")):
                payload = encode(b"hostile+", place, 0, Ask("share", (f"i{place}", (), deed, (1, 2)), 1, "nobody"))
                await link.publish(channels.node(two.name).name, payload)
            assert (await one.sio.fetch_sockets()).complete
            await lastingly(lambda: two.sio.manager.is_connected(two.sid, MAIN), 0.1)

    asyncio.run(main())


NESTED_DEEPLY = "[" * 300 + "]" * 300


@pytest.mark.parametrize("answer", [10**30, json.loads(NESTED_DEEPLY)], ids=["an integer of 100 bits", "300 lists"])
def test_a_client_that_answers_with_what_cannot_travel_has_not_answered(valkey: Valkey, answer: Any) -> None:
    """And what the others say counts all the same, those of its own node among them."""

    async def main() -> None:
        async with seats(valkey.url, 2) as [one, two], raw_client(f"http://127.0.0.1:{two.sio.node.port}") as other:
            sid = await other.connect()
            calling = asyncio.ensure_future(one.sio.broadcast_call("q", to=[two.sid, sid], timeout=60))
            await _acknowledging(two.client, answer)
            await _acknowledging(other, "yes")
            answers = await calling
            assert (answers.given, answers.missing) == ({sid: "yes"}, (two.sid,))
            calling = asyncio.ensure_future(one.sio.call("q", to=two.sid, timeout=60))
            await _acknowledging(two.client, answer)
            with pytest.raises(socketio.exceptions.TimeoutError):
                await calling

    asyncio.run(main())
