"""The bus over a real Valkey: what is promised holds, and what goes wrong has a defined course."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.redis_link import connection
from node import publisher, redis_socket, subscriber
from node.bus import MUCH_BYTES, BusLimits, Fate, Health
from node.wire import Ask, Emit, Envelope
from tests.support.between import between
from tests.support.ports import free_port
from tests.support.posts import Member, members
from tests.support.upstreams import silent_server
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly


def heard(member: Member, count: int) -> bool:
    return len(member.heard) >= count


def test_what_is_published_in_one_turn_is_one_write(valkey: Valkey) -> None:
    """A write is a system call, and costs more than the message."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            assert await two.enter()
            link = one.bus.lanes[0].publisher.server
            assert link is not None
            writes: list[bytes] = []
            write = link.write

            def counted(data: bytes) -> None:
                writes.append(data)
                write(data)

            link.write = counted  # type: ignore[method-assign,assignment]
            for number in range(100):
                assert one.say(number) is Fate.SENT
            await eventually(partial(heard, two, 100))
            assert len(writes) == 1

    asyncio.run(main())


def test_who_has_subscribed_hears_the_next_message(valkey: Valkey) -> None:
    """From whomever, without a pause: joining returns when the subscription holds."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            for number in range(200):
                room = f"room {number}"
                assert await two.enter(room)
                one.say(number, room)
            await eventually(partial(heard, two, 200))
            assert two.heard == [*map(str, range(200))]

    asyncio.run(main())


def test_many_subscriptions_are_waited_for_at_once(valkey: Valkey) -> None:
    """Of a client that moved here with all its rooms, say; while Redis is away there is nothing to wait for."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            for number in range(300):
                two.bus.want(two.channels.room("/", f"room {number}"))
            assert await two.bus.settled()
            for number in range(300):
                one.say(number, f"room {number}")
            await eventually(partial(heard, two, 300))
            valkey.kill()
            await eventually(lambda: two.bus.health is Health.AWAY)
            assert not await two.bus.settled()

    asyncio.run(main())


def test_who_listens_to_nothing_receives_nothing(valkey: Valkey) -> None:
    """A message costs only those who have somebody for it."""

    async def main() -> None:
        async with members(valkey.url, valkey.url, valkey.url) as [one, two, three]:
            await two.enter()
            await one.enter()
            for number in range(100):
                one.say(number)
            await eventually(partial(heard, two, 100))
            assert three.bus.figures().received == 0
            assert one.heard == [], "its own come back to it and are no news"
            assert one.bus.figures().received == 100
            two.bus.unsubscribe(two.channels.room("/", "room"))
            await eventually(lambda: two.bus.figures().subscriptions == 1)

    asyncio.run(main())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=60))
def test_however_rooms_are_entered_and_left_the_server_knows_the_last_word(
    valkey: Valkey, steps: list[tuple[bool, int, bool]]
) -> None:
    """Faster than it confirms, too; and whoever waits is answered."""

    async def main() -> None:
        async with members(valkey.url) as [one]:
            wanted: set[int] = set()
            waiting: list[asyncio.Task[bool]] = []
            for enters, room, pauses in steps:
                channel = one.channels.room("/", str(room))
                if enters:
                    waiting.append(asyncio.ensure_future(one.bus.subscribe(channel)))
                    await asyncio.sleep(0)
                    wanted.add(room)
                else:
                    one.bus.unsubscribe(channel)
                    wanted.discard(room)
                if pauses:
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(30):
                await asyncio.gather(*waiting)
            expected = {one.channels.room("/", str(room)).name for room in wanted}
            async with connection(valkey.url) as link:

                async def agrees() -> bool:
                    return {name for name in await link.pubsub_channels() if b":room:" in name} == expected

                await eventually(agrees, what=f"{expected}")
            assert one.bus.figures().subscriptions == len(expected) + 1

    asyncio.run(main())


def test_an_outage_delays_messages_and_loses_none(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """They go out in order when everybody hears again, and one line each tells of its begin and end."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            await two.enter()
            for number in range(100):
                one.say(number)
            valkey.kill()
            await eventually(lambda: one.bus.health is Health.AWAY and two.bus.health is Health.AWAY)
            assert caplog.messages.count("bus lost: messages for other nodes wait") == 2
            assert await two.enter("later") is False, "there is nobody to ask, and no reason to hold up the handler"
            for number in range(100, 200):
                assert one.say(number) is Fate.WAITING
            one.say("later", "later")
            assert one.bus.figures().outbox_messages >= 101
            valkey.start()
            await eventually(lambda: "later" in two.heard)
            assert two.heard == [*map(str, range(200)), "later"]
            assert one.bus.dropped == 0
            # Confirmations that nobody waits for are read now and then.
            await eventually(lambda: one.bus.figures().outbox_bytes == 0)
            assert await one.bus.up(5)
            assert await two.bus.up(5)

    asyncio.run(main())
    assert caplog.messages.count("bus is back") == 2


def test_thousands_of_rooms_are_heard_again_before_messages_flow(valkey: Valkey) -> None:
    """The first message after an outage is for the room that was subscribed to last."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            await asyncio.gather(*(two.enter(f"room {number}") for number in range(5000)))
            valkey.kill()
            await eventually(lambda: one.bus.health is Health.AWAY)
            for number in range(5000):
                one.say(number, f"room {number}")
            valkey.start()
            await eventually(partial(heard, two, 5000))
            assert two.heard == [*map(str, range(5000))]

    asyncio.run(main())


def test_messages_wait_for_a_node_that_is_slow_to_come_back(valkey: Valkey) -> None:
    """Redis is back, one subscriber is not: what is for it is not thrown to the winds."""

    async def main() -> None:
        async with between(valkey.port) as proxy, members(valkey.url, f"redis://127.0.0.1:{proxy.port}") as [one, two]:
            await two.enter()
            valkey.kill()
            proxy.cut(refuse=True)
            await eventually(lambda: one.bus.health is Health.AWAY and two.bus.health is Health.AWAY)
            one.say("waits")
            valkey.start()
            await lastingly(lambda: one.bus.health is Health.AWAY, 0.5)
            proxy.healed()
            await eventually(partial(heard, two, 1))

    asyncio.run(main())


def test_a_node_that_does_not_come_back_is_not_waited_for_longer_than_its_lease(valkey: Valkey) -> None:
    """It died in the same outage."""

    async def main() -> None:
        async with members(valkey.url, valkey.url, limits=BusLimits(lease_s=0.5)) as [one, two]:
            await two.enter()
            one.peers.append("dead")
            valkey.kill()
            await eventually(lambda: one.bus.health is Health.AWAY)
            one.say("waits")
            valkey.start()
            await eventually(partial(heard, two, 1))
            assert await one.bus.up(5)

    asyncio.run(main())


def test_a_full_outbox_refuses_and_an_old_message_is_dropped(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Counted, and logged once for many."""

    async def main() -> None:
        limits = BusLimits(outbox_bytes=2000, outbox_age_s=0.3, lease_s=2)
        async with members(valkey.url, valkey.url, limits=limits) as [one, two]:
            await two.enter()
            valkey.kill()
            await eventually(lambda: one.bus.health is Health.AWAY)
            fates = [one.say(number) for number in range(100)]
            kept = fates.count(Fate.WAITING)
            assert fates == [Fate.WAITING] * kept + [Fate.DROPPED] * (100 - kept)
            assert 5 < kept < 50
            await eventually(lambda: one.bus.figures().dropped_old == kept)
            valkey.start()
            assert await one.bus.up(10)
            assert await two.bus.up(10)
            one.say("fresh")
            await eventually(partial(heard, two, 1))
            assert two.heard == ["fresh"]
            assert one.bus.figures().dropped_full == 100 - kept
            assert one.bus.dropped == 100

    asyncio.run(main())
    assert caplog.messages.count("messages dropped: Redis was away for too long") == 1
    assert caplog.messages.count("messages dropped: the outbox is full") == 1


def test_a_connection_that_leads_nowhere_is_noticed(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition: no reset, no answer.  Messages of that time arrive when it is over, in order."""
    monkeypatch.setattr(publisher, "ANSWER_S", 0.4)
    monkeypatch.setattr(publisher, "WATCH_S", 0.1)
    monkeypatch.setattr(redis_socket, "CONNECT_S", 0.3)
    monkeypatch.setattr(redis_socket, "ANSWER_S", 0.3)

    async def main() -> None:
        async with between(valkey.port) as proxy, members(f"redis://127.0.0.1:{proxy.port}", valkey.url) as [one, two]:
            await two.enter()
            one.say(0)
            await eventually(partial(heard, two, 1))
            proxy.partitioned()
            for number in range(1, 50):
                one.say(number)
            await eventually(lambda: one.bus.health is Health.AWAY)
            assert "no answer" in one.bus.reason or "did not answer" in one.bus.reason
            one.say(50)
            proxy.cut()
            proxy.healed()
            await eventually(partial(heard, two, 51))
            assert two.heard == [*map(str, range(51))]

    asyncio.run(main())


def test_a_subscription_that_leads_nowhere_is_noticed(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that vanished sends no reset: its silence is asked, and given up."""
    monkeypatch.setattr(subscriber, "QUIET_S", 0.2)

    async def main() -> None:
        async with between(valkey.port) as proxy, members(f"redis://127.0.0.1:{proxy.port}") as [one]:
            await lastingly(lambda: one.bus.health is Health.OK, 1.0, what="quiet is not dead")
            assert one.bus.lanes[0].subscriber.connects == 1
            proxy.partitioned()
            await eventually(lambda: one.bus.lanes[0].subscriber.reason.startswith("no sign of life"))
            proxy.cut()
            proxy.healed()
            assert await one.bus.up(10)

    asyncio.run(main())


def test_a_deaf_subscriber_is_found_repaired_or_shown(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """It listens to another server than everybody publishes to, which looks exactly like silence."""

    async def main() -> None:
        other = Valkey(valkey.directory, free_port())
        other.start()
        try:
            async with between(valkey.port) as proxy:
                url = f"redis://127.0.0.1:{proxy.port}"
                async with members(url, limits=BusLimits(canary_s=0.3, lease_s=1)) as [one]:
                    await eventually(lambda: one.bus.canary.count > 1)
                    assert one.bus.figures().canary_ms > 0
                    proxy.towards = other.port
                    async with connection(valkey.url) as link:
                        await link.client_kill_filter(_type="pubsub")
                    await eventually(lambda: one.bus.health is Health.DEAF)
                    assert one.bus.figures().canaries_lost >= 2
                    assert "canary" in one.bus.reason or "deaf" in one.bus.reason
                    proxy.towards = valkey.port
                    await eventually(lambda: one.bus.health is Health.OK)
        finally:
            other.kill()

    asyncio.run(main())
    assert "bus is deaf: this node hears no other" in caplog.messages


def test_a_redis_that_hangs_makes_nobody_deaf(valkey: Valkey) -> None:
    """It answers nobody: that is an outage, for which no node should be taken out."""

    async def main() -> None:
        async with members(valkey.url, limits=BusLimits(canary_s=0.2, lease_s=1)) as [one]:
            assert valkey.process is not None
            await eventually(lambda: one.bus.canary.count)
            os.kill(valkey.process.pid, signal.SIGSTOP)
            try:
                await lastingly(lambda: one.bus.health is not Health.DEAF, 1.5)
            finally:
                os.kill(valkey.process.pid, signal.SIGCONT)
            assert await one.bus.up(10)

    asyncio.run(main())


def test_who_may_not_publish_is_told_and_goes_on(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """An ACL without the channels: it would be refused again, so nothing waits for it."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            rules = ["resetchannels", "&{test}:bus:ear:*", "&{test}:bus:node:*", "+@all"]
            await link.execute_command("ACL", "SETUSER", "ada", "on", ">pw", *rules)  # type: ignore[no-untyped-call]
        async with members(f"redis://ada:pw@127.0.0.1:{valkey.port}") as [one]:
            for number in range(3):
                one.say(number)
            await eventually(lambda: one.bus.figures().refused == 3)
            assert one.bus.dropped == 3
            assert one.bus.figures().outbox_bytes == 0

    asyncio.run(main())
    assert caplog.messages.count("messages dropped: Redis refuses them") == 1


def test_what_is_no_message_is_dropped_and_counted(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else publishes on our channels, or a newer version does: one line, and no more."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two], connection(valkey.url) as link:
            await two.enter()
            for number in range(5):
                await link.publish(two.channels.room("/", "room").name, b"nonsense %d" % number)
            one.say("fine")
            await eventually(partial(heard, two, 1))
            assert (two.bad, two.heard) == (5, ["fine"])

    asyncio.run(main())
    assert caplog.messages.count("bus message dropped: cannot be read") == 1


def test_a_message_that_fails_costs_no_other(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is raised where it is dealt with, the connection stays."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            asked: list[str] = []

            def fail(envelope: Envelope) -> None:
                assert isinstance(envelope.content, Ask)
                asked.append(envelope.content.operation)
                raise RuntimeError("not today")

            two.take(Ask, fail)
            one.send(one.channels.node("n1"), Ask("first"))
            one.send(one.channels.node("n1"), Ask("second"))
            await eventually(lambda: asked == ["first", "second"])
            assert two.bus.lanes[0].subscriber.connects == 1

    asyncio.run(main())
    assert caplog.messages.count("message of another node failed") == 2


def test_a_kind_that_nobody_takes_is_left_alone(valkey: Valkey) -> None:
    """An emitter that does not answer questions."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            one.send(one.channels.node("n1"), Ask("who"))
            await eventually(lambda: two.lag.count)

    asyncio.run(main())


def test_a_message_to_several_rooms_is_taken_once(valkey: Valkey) -> None:
    """Who listens to many of them gets many copies."""

    async def main() -> None:
        async with members(valkey.url, valkey.url) as [one, two]:
            rooms = ("a", "b", "c")
            for room in rooms:
                await two.enter(room)
            fate = one.send_all([one.channels.room("/", room) for room in rooms], Emit("/", rooms, b"once"))
            assert fate is Fate.SENT
            one.say("last", "c")
            await eventually(lambda: "last" in two.heard)
            assert two.heard == ["once", "last"]
            assert two.repeated == 2
            assert two.lag.count == 2

    asyncio.run(main())


def test_who_publishes_in_a_loop_can_wait_for_redis(valkey: Valkey) -> None:
    """Else the outbox fills although Redis is there."""

    async def main() -> None:
        limits = BusLimits(outbox_bytes=4 * MUCH_BYTES)
        async with members(valkey.url, valkey.url, limits=limits) as [one, two]:
            await two.enter()
            text = "x" * 100_000
            for _ in range(200):
                assert one.say(text) is Fate.SENT
                await one.bus.room()
            await eventually(partial(heard, two, 200))

    asyncio.run(main())


def test_waiting_for_redis_ends_with_redis(valkey: Valkey) -> None:
    """From then on the outbox bounds what waits."""

    async def main() -> None:
        async with members(valkey.url) as [one]:
            assert valkey.process is not None
            os.kill(valkey.process.pid, signal.SIGSTOP)
            for _ in range(30):
                one.say("x" * 100_000)
            waiting = asyncio.ensure_future(one.bus.room())
            await lastingly(lambda: not waiting.done(), 0.1)
            os.kill(valkey.process.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                await waiting

    asyncio.run(main())


@pytest.mark.parametrize("answers", [b"+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_redis_is_a_reason(answers: bytes) -> None:
    """A port of something else, in the configuration."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):
                writer.write(answers)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            async with members(url, up=False, limits=BusLimits(canary_s=0.2)) as [one]:
                if answers.startswith(b"HTTP"):
                    await eventually(lambda: "does not speak Redis" in one.bus.reason)
                assert not await one.bus.up(0.5)

    asyncio.run(main())


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asked again."""
    monkeypatch.setattr(redis_socket, "ANSWER_S", 0.2)

    async def main() -> None:
        async with silent_server() as port, members(f"redis://127.0.0.1:{port}/1", up=False) as [one]:
            await eventually(lambda: "no answer from" in one.bus.reason)

    asyncio.run(main())
