"""Messages between nodes: they cross once, in order, to those that have members; and local clients never wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio

from cluster.tag import new_sid, tag_of
from node import elsewhere
from node.bridge import Bridge
from node.bus import BusLimits, Health
from node.clients import ClientManager
from node.fate import Fate
from node.rooms import Client
from tests.support.rooms_nodes import SECRET, rooms_nodes
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly


def test_a_message_reaches_its_own_node_once_and_every_other_once(valkey: Valkey) -> None:
    """Its own without Redis, and not a second time when it comes back on the channel."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            (_, mine), (_, other) = await one.client(), await two.client()
            for number in range(50):
                assert await one.sio.emit("x", number) is Fate.SENT
            assert mine.firsts == [*range(50)], "at once"
            await two.sio.emit("x", "last")
            await eventually(lambda: "last" in mine.firsts and 49 in other.firsts)
            assert mine.firsts == [*range(50), "last"]
            assert [data for data in other.firsts if data != "last"] == [*range(50)]

    asyncio.run(main())


def test_every_option_of_emit_crosses_with_it(valkey: Valkey) -> None:
    """Rooms, exceptions, bytes, several arguments and none."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            sid_of_one, _ = await one.client()
            sid_of_two, ear = await two.client("here", 7, b"bytes", ("a", 1))
            _, elsewhere_ = await two.client(namespace="/other")
            sio = one.sio
            await sio.emit("x", "not for the other", except_rooms="here")
            await sio.emit("x", "skipped", skip_sid=[sid_of_two])
            await sio.emit("x", "elsewhere", room=["there"])
            await sio.emit("x", "nobody", room=[])
            await sio.emit("x", "ours alone", ignore_queue=True)
            assert await sio.emit("x", "for one of ours", to=sid_of_one) is Fate.LOCAL
            await sio.emit("x", {"b": b"bytes"}, room="here", volatile=True)
            await sio.emit("x", ("several", 2), room=["here", "there", 7])
            await sio.emit("x", None, to=sid_of_two)
            for room in (7, b"bytes", ("a", 1)):
                await sio.emit("x", str(room), to=[room])
            await sio.emit("x", "other", namespace="/other")
            await sio.emit("x", "last")
            await eventually(lambda: "last" in ear.firsts)
            assert ear.heard == [
                [["x", {"b": {"_placeholder": True, "num": 0}}], b"bytes"],
                [["x", "several", 2]],
                [["x"]],
                [["x", "7"]],
                [["x", "b'bytes'"]],
                [["x", "('a', 1)"]],
                [["x", "last"]],
            ]
            assert elsewhere_.firsts == ["other"]

    asyncio.run(main())


def test_a_node_without_members_hears_nothing(valkey: Valkey) -> None:
    """Neither of rooms that it has nobody in, nor of namespaces, nor of single clients."""

    async def main() -> None:
        async with rooms_nodes(*[valkey.url] * 3) as [one, two, three]:
            sid, ear = await two.client("here")
            gone, _ = await three.client("here")
            three.lose(gone)
            await eventually(lambda: three.post.bus.figures().subscriptions == 2)
            for number in range(20):
                await one.sio.emit("x", number, to="here")
                await one.sio.emit("x", number)
                await one.sio.emit("x", number, to=sid)
            await eventually(lambda: len(ear.heard) == 60)
            assert three.post.bus.figures().received == 0
            assert one.post.bus.figures().received == 0

    asyncio.run(main())


def test_who_has_entered_hears_what_others_say_from_then_on(valkey: Valkey) -> None:
    """Entering returns when the subscription holds; leaving ends it, and entering again in the same breath does not."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            sid, ear = await two.client()
            for number in range(50):
                await two.fanout.enter_room(sid, "/", number)
                await one.sio.emit("x", number, to=[number])
            await eventually(lambda: ear.firsts == [*range(50)])
            for number in range(50):
                await two.fanout.leave_room(sid, "/", number)
            await two.fanout.leave_room(sid, "/", 1)
            await two.fanout.enter_room(sid, "/", 1)
            await one.sio.emit("x", "no", to=[2])
            await one.sio.emit("x", "yes", to=[1])
            await eventually(lambda: ear.firsts[50:] == ["yes"])
            await eventually(lambda: two.post.bus.figures().subscriptions == 4)

    asyncio.run(main())


def test_a_client_of_another_node_is_managed_from_here(valkey: Valkey) -> None:
    """It enters, leaves and is disconnected there; the calls return when that is done."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            sid, ear = await two.client()
            await one.sio.enter_room(sid, "far")
            assert two.fanout.get_rooms(sid, "/") == [sid, "far"]
            await one.sio.emit("x", "in", to="far")
            await one.sio.leave_room(sid, "far")
            assert two.fanout.get_rooms(sid, "/") == [sid]
            await one.sio.enter_room(sid, "far")
            await one.sio.close_room("far")
            await eventually(lambda: two.fanout.get_rooms(sid, "/") == [sid])
            gone: list[str] = []

            async def disconnect(sid: str, namespace: str, ignore_queue: bool) -> None:
                gone.append(sid)

            two.sio.disconnect = disconnect  # type: ignore[assignment,method-assign]
            await one.sio.disconnect(sid)
            assert gone == [sid]
            await one.fanout.disconnect(sid, "/")
            assert gone == [sid, sid]
            assert ear.firsts == ["in"]

    asyncio.run(main())


def test_nobody_enters_the_room_of_another_client(valkey: Valkey) -> None:
    """Wherever that is connected: what is for it is sent to its node alone."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            (sid, _), (other, _) = await one.client(), await two.client()
            with pytest.raises(ValueError, match="cannot enter a sid room"):
                await one.fanout.enter_room(sid, "/", other)
            await one.fanout.enter_room(sid, "/", sid)
            with pytest.raises(ValueError, match="not connected"):
                await one.fanout.enter_room("nobody", "/", "room")
            with pytest.raises(TypeError, match="text, bytes, a number or a tuple"):
                await one.fanout.enter_room(sid, "/", frozenset())
            assert one.fanout.get_rooms(sid, "/") == [sid]

    asyncio.run(main())


def test_the_first_acknowledgement_finds_the_node_that_asked(valkey: Valkey) -> None:
    """The client is on another node, or some here and some there; lists come back as lists."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            (here, _), (there, ear) = await one.client("room"), await two.client("room")
            answers: list[Any] = []
            await one.sio.emit("x", ("question", b"!"), to=there, callback=lambda *answer: answers.append(answer))
            await eventually(lambda: "question" in ear.firsts)
            await two.fanout.trigger_callback(there, 1, ["yes", [1, {"a": [2]}]])
            await eventually(lambda: answers)
            assert answers == [("yes", [1, {"a": [2]}])]

            async def slowly(*answer: Any) -> None:
                answers.append(answer)

            await one.sio.emit("x", "room", to="room", callback=slowly)
            await eventually(lambda: "room" in ear.firsts)
            await two.fanout.trigger_callback(there, 2, [])
            await eventually(lambda: answers[1:] == [()])
            await one.fanout.trigger_callback(here, 1, ["too late"])
            await lastingly(lambda: len(answers) == 2, 0.1)
            with pytest.raises(ValueError, match="without a room"):
                await one.sio.emit("x", "all", callback=slowly)

    asyncio.run(main())


def test_a_call_reaches_a_client_of_another_node(valkey: Valkey) -> None:
    """And gives up when it does not answer."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            sid, ear = await two.client()
            calling = asyncio.ensure_future(one.sio.call("x", "question", to=sid, timeout=30))
            await eventually(lambda: ear.heard)
            await two.fanout.trigger_callback(sid, 1, ["answer"])
            assert await calling == "answer"
            with pytest.raises(socketio.exceptions.TimeoutError):
                await one.sio.call("x", "question", to=sid, timeout=0.05)
            assert not one.fanout.questions.pending

    asyncio.run(main())


def test_an_outage_holds_up_nobody_here_and_is_reported(valkey: Valkey) -> None:
    """Local clients get everything meanwhile; others when Redis is back; volatile events never."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            (_, mine), (far, other) = await one.client("room"), await two.client("room")
            valkey.kill()
            await eventually(lambda: one.post.bus.health is Health.AWAY and two.post.bus.health is Health.AWAY)
            for number in range(100):
                fate = await one.sio.emit("x", number, to="room")
                assert fate is Fate.WAITING
                assert not fate.delivered_to_bus
            assert await one.sio.emit("x", "volatile", to="room", volatile=True) is Fate.DROPPED
            await one.sio.enter_room(far, "later")
            await one.client("new")
            assert mine.firsts == [*range(100), "volatile"]
            valkey.start()
            await eventually(lambda: len(other.heard) == 100)
            assert other.firsts == [*range(100)]
            await eventually(lambda: "later" in two.fanout.get_rooms(far, "/"))
            assert (await one.sio.emit("x", "fine")).delivered_to_bus

    asyncio.run(main())


def test_a_node_that_does_not_answer_is_not_waited_for_long(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone: its clients are, too."""
    monkeypatch.setattr(elsewhere, "ANSWER_S", 0.05)

    async def main() -> None:
        async with rooms_nodes(valkey.url) as [one]:
            await one.fanout.enter_room(new_sid(tag_of("n9", SECRET)), "/", "room")

    asyncio.run(main())


def test_what_no_node_of_ours_would_ask_is_answered_with_an_error(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version, or somebody else, asks: nobody suffers, and who waits is told."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            errors: list[str] = []
            channel = [two.post.channels.node("n1")]
            wrong = new_sid(tag_of("n9", SECRET))
            for operation, arguments in {
                "paint": (),
                "enter": ("/",),
                "close": (1, 2, 3),
                "leave": ("/", wrong, "room"),
            }.items():
                one.fanout.questions.ask(channel, operation, arguments, lambda answer: errors.append(answer.error))
            await eventually(lambda: len(errors) == 4)
            assert sorted(errors) == [
                "bad arguments",
                "bad arguments",
                "not a client of this node",
                "unknown operation",
            ]

    asyncio.run(main())


def test_an_observer_sees_what_comes_from_other_nodes(valkey: Valkey) -> None:
    """The admin UI shows events with their arguments, bytes included."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url) as [one, two]:
            _, ear = await two.client()
            seen: list[Any] = []

            class Watching:
                def sent(self, client: Client, event: list[Any]) -> None:
                    seen.append(event)

            two.sio.observer = Watching()  # type: ignore[assignment]
            await one.sio.emit("x", {"a": b"bytes"})
            await one.sio.emit("x", 1)
            await eventually(lambda: len(ear.heard) == 2)
            assert seen == [["x", {"a": b"bytes"}], ["x", 1]]

    asyncio.run(main())


def test_who_emits_in_a_loop_waits_for_redis(valkey: Valkey) -> None:
    """Else the outbox would fill, and messages be dropped, although Redis is there."""

    async def main() -> None:
        async with rooms_nodes(valkey.url, valkey.url, limits=BusLimits(outbox_bytes=1 << 22)) as [one, two]:
            _, ear = await two.client("room")
            for _ in range(300):
                assert await one.sio.emit("x", "x" * 100_000, to="room") is Fate.SENT
            await eventually(lambda: len(ear.heard) == 300)

    asyncio.run(main())


def test_managers_of_python_socketio_are_heard_through_the_bridge(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Emits with every option, disconnects, rooms; nonsense is counted, and the next message is heard."""

    async def main() -> None:
        async with rooms_nodes(valkey.url) as [one]:
            sid, ear = await one.client("here")
            bridge = Bridge(valkey.url, "socketio", one.fanout)
            listening = asyncio.ensure_future(bridge.run())
            outside = socketio.AsyncRedisManager(valkey.url, write_only=True)

            async def emitted() -> bool:
                await outside.emit("x", "probe")
                return "probe" in ear.firsts

            await eventually(emitted)
            await outside.redis.publish("socketio", b"nonsense")
            await outside.redis.publish("socketio", b'{"method": "emit"}')
            await outside.emit("x", {"b": b"bytes"}, room="here")
            await outside.emit("x", ("several", 2), room=["here"])
            await outside.emit("x", "not you", skip_sid=sid)
            await outside.enter_room(sid, "/", "there")
            await outside.emit("x", "entered", room="there")
            await outside.leave_room(sid, "/", "there")
            await outside.emit("x", "left", room="there")
            await outside.close_room("here")
            await outside.emit("x", "closed", room="here")
            await outside.emit("x", "last", to=sid)
            await eventually(lambda: "last" in ear.firsts)
            assert [each for each in ear.heard if each[0][1] != "probe"] == [
                [["x", {"b": {"_placeholder": True, "num": 0}}], b"bytes"],
                [["x", "several", 2]],
                [["x", "entered"]],
                [["x", "last"]],
            ]
            assert bridge.bad == 2
            await outside.redis.aclose()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(main())


def test_python_socketio_starts_no_listener_of_its_own(valkey: Valkey) -> None:
    """It would with the first client, as a task that nobody owns."""

    async def main() -> None:
        async with rooms_nodes(valkey.url) as [one]:
            before = asyncio.all_tasks()
            one.fanout.initialize()
            assert asyncio.all_tasks() == before
            assert isinstance(one.fanout, ClientManager)

    asyncio.run(main())
