"""State on several nodes, and a Redis that goes away, hangs, comes back empty, or holds what others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio.client import PubSub

from cluster.redis_link import connection
from node import state_news, state_redis
from node.listening import lively
from node.state import Kind, State, StateAway, StateChange, WrongKind
from tests.node.test_state import taken
from tests.support.states import KEYS, in_redis
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

pytestmark = pytest.mark.usefixtures("patient_state")


def test_what_one_node_sets_others_have_and_hear(valkey: Valkey) -> None:
    """As soon as it is set."""

    async def main() -> None:
        async with in_redis(valkey.url) as one, in_redis(valkey.url) as two, two.watch("k") as changes:
            await one.set("k", {"score": 1})
            assert await two.get("k") == {"score": 1}
            assert await taken(changes, 1) == [StateChange(Kind.SET, "k", None, {"score": 1})]
            await asyncio.gather(*(state.incr("n") for state in (one, two) for _ in range(50)))
            assert await one.get("n") == 100

    asyncio.run(main())


def test_everything_lies_under_the_name_of_the_cluster(valkey: Valkey) -> None:
    """Two clusters share a Redis; and in a Redis Cluster all of one is in one slot."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link:
            await state.set("k}{", 1)
            await state.hset("h", "f", 1)
            assert sorted(await link.keys("*")) == [b"{test}:state:h", b"{test}:state:k}{"]

    asyncio.run(main())


STEPS: list[Callable[[State], Awaitable[object]]] = [
    lambda state: state.get("k"),
    lambda state: state.set("k", 1),
    lambda state: state.incr("k"),
    lambda state: state.hall("h"),
    lambda state: state.update("k", lambda _: 1),
]


def test_without_redis_each_step_fails_in_time_and_says_why(valkey: Valkey) -> None:
    """And works again when Redis is back, with what Redis has then: nothing is kept here."""

    async def main() -> None:
        async with in_redis(valkey.url) as state:
            await state.set("k", 1)
            valkey.kill()
            for step in STEPS:
                with pytest.raises(StateAway, match=r"Redis is away, so '(k|h)' cannot be used: "):
                    await step(state)
            valkey.start()
            assert await eventually(lambda: _works(state))
            assert await state.get("k") is None

    asyncio.run(main())


async def _works(state: State) -> bool:
    try:
        return await state.incr("n") > 0
    except StateAway:
        return False


def test_a_redis_that_hangs_costs_a_step_its_time_and_no_answer_goes_to_another(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that waited for their turn.  What was given up leaves nothing on a connection."""

    async def main() -> None:
        async with in_redis(valkey.url) as state:
            await asyncio.gather(*(state.set(f"k{number}", number) for number in range(50)))
            with valkey.hanging(), monkeypatch.context() as impatient:
                impatient.setattr(state_redis, "WITHIN_S", 0.3)
                results = await asyncio.gather(
                    *(state.get(f"k{number}") for number in range(50)), return_exceptions=True
                )
                assert all(isinstance(each, StateAway) for each in results)
            assert await eventually(lambda: _works(state))
            assert await asyncio.gather(*(state.get(f"k{number}") for number in range(50))) == list(range(50))

    asyncio.run(main())


def test_a_redis_that_refuses_is_quoted(valkey: Valkey) -> None:
    """Out of memory, say: the error has Redis' own words."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link:
            await link.config_set("maxmemory", "1")
            with pytest.raises(StateAway, match=r"refused a change of 'k': .*maxmemory"):
                await state.set("k", 1)

    asyncio.run(main())


def test_a_watch_survives_an_outage_and_says_that_it_missed_some(valkey: Valkey) -> None:
    """MISSED comes when it hears again, so that what is read then is not missed either."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, state.watch("k") as one, state.watch(prefix="k") as two:
            await state.set("k", 1)
            for watch in (one, two):
                assert [change.value for change in await taken(watch, 1)] == [1]
            valkey.kill()
            valkey.start()
            for watch in (one, two):
                assert await taken(watch, 1) == [StateChange(Kind.MISSED, "k")]
            assert await eventually(lambda: _works(state))
            await state.set("k", 2)
            for watch in (one, two):
                assert [change.value for change in await taken(watch, 1)] == [2]

    asyncio.run(main())


def test_a_watch_that_cannot_begin_says_so_in_time(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing behind: the next one begins as if it had not been."""
    monkeypatch.setattr(state_news, "WITHIN_S", 0.3)

    async def main() -> None:
        async with in_redis(valkey.url) as state:
            valkey.kill()
            for _ in range(2):
                with pytest.raises(StateAway, match="'k' cannot be watched"):
                    await state.watch("k").__aenter__()
            valkey.start()
            monkeypatch.setattr(state_news, "WITHIN_S", 30.0)
            async with state.watch("k") as changes:
                await eventually(lambda: _works(state))
                await state.set("k", 1)
                assert [change.value for change in await taken(changes, 1)] == [1]
                with valkey.hanging():
                    monkeypatch.setattr(state_news, "WITHIN_S", 0.3)
                    with pytest.raises(StateAway, match="'other'"):
                        await state.watch("other").__aenter__()

    asyncio.run(main())


def test_nothing_is_subscribed_to_when_nothing_is_watched(valkey: Valkey) -> None:
    """The connection is there only while it is needed, however often watches come and go at the same time."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link:

            async def watched(name: str) -> None:
                async with state.watch(name) as changes:
                    await state.set(name, 1)
                    await taken(changes, 1)

            for _ in range(20):
                await asyncio.gather(*(watched(name) for name in ("a", "a", "b", "c", "a")))
                await eventually(lambda: _subscribers(link, 0), what="let go")

    asyncio.run(main())


def test_a_watch_that_begins_while_the_connection_is_made_uses_that_one(valkey: Valkey) -> None:
    """A second one would leave the first unheard, with all that was subscribed to there."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link:
            await link.ping()
            first, second = state.watch("a"), state.watch("b")
            with valkey.hanging():
                begun = [asyncio.ensure_future(first.__aenter__())]
                await lastingly(lambda: not begun[0].done(), 0.2)
                begun.append(asyncio.ensure_future(second.__aenter__()))
                await lastingly(lambda: not begun[1].done(), 0.2)
            await asyncio.gather(*begun)
            assert await _subscribers(link, 1)
            for watch, key in ((first, "a"), (second, "b")):
                await state.set(key, 1)
                assert await taken(watch, 1) == [StateChange(Kind.SET, key, None, 1)]
                await watch.__aexit__(None, None, None)

    asyncio.run(main())


def test_a_key_that_is_watched_again_is_heard_by_the_new_subscription(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What confirms the one that was given up comes later, and says nothing of this one."""
    messages = asyncio.Semaphore(0)

    async def one_by_one(subscription: PubSub) -> AsyncIterator[dict[str, Any]]:
        async for message in lively(subscription):
            await messages.acquire()
            yield message

    monkeypatch.setattr(state_news, "lively", one_by_one)

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link:
            messages.release()
            async with state.watch("other"):
                given_up = asyncio.ensure_future(state.watch("k").__aenter__())
                await eventually(lambda: _subscriptions(link, 2))
                given_up.cancel()
                await asyncio.gather(given_up, return_exceptions=True)
                await eventually(lambda: _subscriptions(link, 1), what="it has unsubscribed")
                again = state.watch("k")
                begun = asyncio.ensure_future(again.__aenter__())
                await eventually(lambda: _subscriptions(link, 2))
                for _ in ("subscribe", "unsubscribe"):
                    messages.release()
                    await lastingly(lambda: not begun.done(), 0.1)
                messages.release()
                await begun
                for _ in range(9):
                    messages.release()
                await state.set("k", 1)
                assert await taken(again, 1) == [StateChange(Kind.SET, "k", None, 1)]
                await again.__aexit__(None, None, None)

    asyncio.run(main())


async def _subscriptions(link: object, count: int) -> bool:
    clients = await link.client_list()  # type: ignore[attr-defined]
    return sum(int(client["sub"]) + int(client["psub"]) for client in clients) == count


async def _subscribers(link: object, count: int) -> bool:
    clients = await link.client_list()  # type: ignore[attr-defined]
    return sum(1 for client in clients if int(client["sub"]) + int(client["psub"])) == count


def test_what_others_wrote_is_named_and_does_no_harm(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A value that is not ours, and a change that is not."""

    async def main() -> None:
        async with in_redis(valkey.url) as state, connection(valkey.url) as link, state.watch("k") as changes:
            await link.set(KEYS.state("k"), b"not json")
            with pytest.raises(WrongKind, match="'k' holds what is neither"):
                await state.get("k")
            for foreign in (b"", b"nonsense", b'[2,"set",null]\n1', b'[1,"made up",null]\n1', b'[1,"set",7]\n1'):
                await link.publish(KEYS.state_changed("k"), foreign)
            await link.publish(KEYS.state_changed("k"), b'[1,"set",null]\nnot json')
            await state.set("k", 1)
            assert await taken(changes, 1) == [StateChange(Kind.SET, "k", None, 1)]

    asyncio.run(main())
    assert sum(record.message == "change of shared state ignored" for record in caplog.records) == 6
