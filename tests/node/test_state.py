"""State that all nodes share: one contract, for a node alone and for nodes that share Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from node import watches as watches_module
from node.state import BadState, Contended, Kind, State, StateChange, Watch, WrongKind
from node.state_values import MOST_FIELDS, MOST_VALUE_BYTES
from tests.support.states import in_memory, in_redis
from tests.support.valkey import running_valkey
from tests.support.waiting import eventually

Kept = Callable[[], AbstractAsyncContextManager[State]]


pytestmark = pytest.mark.usefixtures("patient_state")


@pytest.fixture(params=["memory", "redis"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    if request.param == "memory":
        yield in_memory
        return
    with running_valkey() as server:
        yield lambda: in_redis(server.url)


VALUES = [0, -1, 2**63 - 1, 1.5, "", "ü\n\0", True, False, [], {}, {"a": [1, {"b": None}]}, b"", b"\x00\xff", b'"x"']


def test_a_value_comes_back_as_it_was_set(kept: Kept) -> None:
    """Whatever JSON can hold, and bytes; a tuple as a list."""

    async def main() -> None:
        async with kept() as state:
            for value in VALUES:
                await state.set("key", value)
                back = await state.get("key")
                assert back == value
                assert type(back) is type(value)
            await state.set("key", (1, 2))
            assert await state.get("key") == [1, 2]
            await state.set("key", bytearray(b"x"))
            assert await state.get("key") == b"x"
            assert await state.get("other") is None
            assert await state.get("other", 7) == 7

    asyncio.run(main())


def test_a_deleted_key_holds_nothing(kept: Kept) -> None:
    """Values, counters and hashes; it is said whether there was one."""

    async def main() -> None:
        async with kept() as state:
            await state.set("key", 1)
            await state.hset("hash", "field", 1)
            assert await state.delete("key")
            assert await state.delete("hash")
            assert not await state.delete("key")
            assert await state.get("key") is None
            assert await state.hall("hash") == {}

    asyncio.run(main())


def test_a_key_with_a_lifetime_is_gone_when_it_ends(kept: Kept) -> None:
    """A new value has a lifetime of its own; a changed one keeps what it had."""

    async def main() -> None:
        async with kept() as state:
            await state.set("short", 1, ttl_s=0.7)
            await state.set("renewed", 1, ttl_s=0.7)
            await state.set("renewed", 2)
            await state.set("updated", 1, ttl_s=0.7)
            await state.update("updated", lambda value: value + 1)
            await state.incr("counted", ttl_s=0.7)
            await state.incr("counted", ttl_s=3600)
            await state.hset("hash", "field", 1)
            assert await state.expire("hash", 0.1)
            assert not await state.expire("nothing", 1)
            await state.set("longer", 1, ttl_s=0.7)
            assert await state.compare_and_set("longer", 1, 2, ttl_s=3600)

            async def gone() -> bool:
                single = [await state.get(key) for key in ("short", "updated", "counted")]
                return single == [None] * 3 and await state.hall("hash") == {}

            assert await eventually(gone)
            assert await state.get("renewed") == 2
            assert await state.get("longer") == 2

    asyncio.run(main())


def test_counters_count_and_lose_nothing(kept: Kept) -> None:
    """From nothing, up and down, by many at a time, to the last bit."""

    async def main() -> None:
        async with kept() as state:
            assert await state.incr("n") == 1
            assert await state.incr("n", 5) == 6
            assert await state.decr("n", 7) == -1
            await asyncio.gather(*(state.incr("n") for _ in range(100)))
            assert await state.get("n") == 99
            assert await state.incr("big", 2**62 + 1) == 2**62 + 1
            assert await state.hincr("big hash", "n", 2**62 + 1) == 2**62 + 1
            await asyncio.gather(*(state.hincr("hash", "n", 2) for _ in range(50)))
            assert await state.hall("hash") == {"n": 100}
            await state.set("n", 41)
            assert await state.incr("n") == 42

    asyncio.run(main())


def test_hashes_hold_fields(kept: Kept) -> None:
    """Set, read, deleted one by one; the last one takes the hash along."""

    async def main() -> None:
        async with kept() as state:
            await state.hset("h", "a", [1])
            await state.hset("h", "b", b"\xff")
            assert await state.hget("h", "a") == [1]
            assert await state.hget("h", "c") is None
            assert await state.hget("h", "c", 0) == 0
            assert await state.hall("h") == {"a": [1], "b": b"\xff"}
            assert await state.hdelete("h", "a")
            assert not await state.hdelete("h", "a")
            assert await state.hdelete("h", "b")
            assert not await state.delete("h")

    asyncio.run(main())


def test_a_hash_takes_so_many_fields_and_no_more(kept: Kept) -> None:
    """All of them are read at once; what is there can still be changed."""

    async def main() -> None:
        async with kept() as state:
            for start in range(0, MOST_FIELDS, 500):
                await asyncio.gather(*(state.hset("h", str(number), 1) for number in range(start, start + 500)))
            with pytest.raises(BadState, match="'h' has 10000 fields already"):
                await state.hset("h", "one more", 1)
            with pytest.raises(BadState, match="10000"):
                await state.hincr("h", "one more")
            await state.hset("h", "7", 2)
            assert await state.hincr("h", "7") == 3
            assert len(await state.hall("h")) == MOST_FIELDS

    asyncio.run(main())


def test_compare_and_set_sets_only_what_is_as_expected(kept: Kept) -> None:
    """None is no value, expected or to be set."""

    async def main() -> None:
        async with kept() as state:
            assert not await state.compare_and_set("k", 1, 2)
            assert await state.compare_and_set("k", None, {"b": 1, "a": 2})
            assert not await state.compare_and_set("k", None, 1)
            assert await state.compare_and_set("k", {"a": 2, "b": 1}, b"x")
            assert await state.compare_and_set("k", b"x", None)
            assert await state.get("k") is None
            assert await state.compare_and_set("k", None, None)

    asyncio.run(main())


def test_of_many_who_want_the_same_one_gets_it(kept: Kept) -> None:
    """A lock, a seat, a nickname."""

    async def main() -> None:
        async with kept() as state:
            won = await asyncio.gather(*(state.compare_and_set("seat", None, number) for number in range(20)))
            assert won.count(True) == 1
            assert await state.get("seat") == won.index(True)

    asyncio.run(main())


def test_updates_at_the_same_time_lose_nothing(kept: Kept) -> None:
    """Each is made of what is there, and made again when another came between."""

    async def main() -> None:
        async with kept() as state:

            def add(number: int) -> Callable[[list[int]], list[int]]:
                return lambda there: [*there, number]

            results = await asyncio.gather(*(state.update("list", add(number), default=[]) for number in range(12)))
            assert sorted(await state.get("list")) == list(range(12))
            assert max(map(len, results)) == 12
            assert await state.update("list", lambda _: None) is None
            assert await state.get("list") is None
            assert await state.update("list", lambda _: None) is None
            assert await state.update("same", lambda _: 1) == await state.update("same", lambda it: it) == 1
            with pytest.raises(ZeroDivisionError):
                await state.update("same", lambda it: it / 0)
            assert await state.get("same") == 1

    asyncio.run(main())


def test_an_update_that_never_succeeds_says_so(kept: Kept) -> None:
    """Somebody changes the value each time, as fast as we do."""

    async def main() -> None:
        async with kept() as state:
            loop, others = asyncio.get_running_loop(), 0

            def disturbed(value: int | None) -> int:
                nonlocal others
                others += 1
                tasks.append(loop.create_task(state.set("k", -others)))
                return 1

            tasks: list[asyncio.Task[None]] = []
            swap = state._store.swap

            async def late(*arguments: Any) -> bool:
                await asyncio.gather(*tasks)
                return await swap(*arguments)

            state._store.swap = late  # type: ignore[method-assign,assignment]
            with pytest.raises(Contended, match="'k' was changed by others 50 times"):
                await state.update("k", disturbed)

    asyncio.run(main())


def test_what_cannot_be_kept_is_refused_and_says_why(kept: Kept) -> None:
    """Names, values, lifetimes and steps; nothing is changed."""
    refusals: list[tuple[Callable[[Any], Any], str]] = [
        (lambda s: s.get(""), "key must have 1 to 512 bytes, not 0"),
        (lambda s: s.get("ü" * 257), "not 514"),
        (lambda s: s.get(b"key"), "key must be a str, not bytes"),
        (lambda s: s.get("\ud800"), "UTF-8"),
        (lambda s: s.hget("h", ""), "field must have 1 to 512"),
        (lambda s: s.set("k", None), "None is what a key without a value has"),
        (lambda s: s.set("k", {1, 2}), "bytes or JSON: .*set"),
        (lambda s: s.set("k", {1: 2}), "bytes or JSON: .*str"),
        (lambda s: s.set("k", [float("nan")]), "bytes or JSON"),
        (lambda s: s.set("k", 2**64), "bytes or JSON"),
        (lambda s: s.set("k", "\ud800"), "bytes or JSON"),
        (lambda s: s.set("k", "x" * MOST_VALUE_BYTES), f"at most {MOST_VALUE_BYTES} bytes"),
        (lambda s: s.set("k", b"x" * MOST_VALUE_BYTES), f"at most {MOST_VALUE_BYTES} bytes"),
        (lambda s: s.set("k", 1, ttl_s=0), "ttl_s must be from 0.001"),
        (lambda s: s.set("k", 1, ttl_s="5"), "ttl_s"),
        (lambda s: s.set("k", 1, ttl_s=float("inf")), "ttl_s"),
        (lambda s: s.expire("k", None), "needs ttl_s"),
        (lambda s: s.incr("k", 0.5), "whole number"),
        (lambda s: s.incr("k", True), "whole number"),
        (lambda s: s.incr("k", 2**63), "63 bits"),
        (lambda s: s.update("k", lambda _: object()), "bytes or JSON"),
    ]

    async def main() -> None:
        async with kept() as state:
            for refused, reason in refusals:
                with pytest.raises(BadState, match=reason):
                    await refused(state)
            for arguments in ({}, {"key": "a", "prefix": "b"}):
                with pytest.raises(BadState, match="a key or a prefix"):
                    state.watch(**arguments)
            assert await state.get("k") is None

    asyncio.run(main())


def test_a_key_of_another_kind_is_told_from_an_empty_one(kept: Kept) -> None:
    """The error names the key, and nothing is changed."""

    async def main() -> None:
        async with kept() as state:
            await state.hset("h", "f", "text")
            await state.set("v", "text")
            await state.set("full", 2**63 - 1)
            wrong: list[Callable[[], Any]] = [
                lambda: state.get("h"),
                lambda: state.incr("h"),
                lambda: state.compare_and_set("h", None, 1),
                lambda: state.hget("v", "f"),
                lambda: state.hset("v", "f", 1),
                lambda: state.hall("v"),
                lambda: state.incr("v"),
                lambda: state.hincr("h", "f"),
                lambda: state.incr("full"),
            ]
            for asked in wrong:
                with pytest.raises(WrongKind, match=r"'(h|v|full)'"):
                    await asked()
            assert (await state.hall("h"), await state.get("v")) == ({"f": "text"}, "text")
            await state.set("h", 1)
            assert await state.get("h") == 1, "set() replaces whatever is there"

    asyncio.run(main())


async def taken(watch: Watch, count: int) -> list[StateChange]:
    async with asyncio.timeout(30):
        return [await anext(watch) for _ in range(count)]


def test_a_watch_hears_every_change_of_its_key_in_order(kept: Kept) -> None:
    """With the new value; what changes nothing is no change, and other keys are not heard."""

    async def main() -> None:
        async with kept() as state, state.watch("k") as changes:
            await state.set("kk", 0)
            await state.set("k", {"a": 1})
            await state.set("k", 5)
            await state.incr("k", 2)
            await state.update("k", lambda value: value + 1)
            await state.delete("k")
            assert not await state.delete("k")
            assert not await state.compare_and_set("k", 1, 2)
            await state.hset("k", "f", b"\n\x00")
            await state.hincr("k", "n")
            await state.hdelete("k", "f")
            await state.delete("k")
            await state.compare_and_set("k", None, "x")
            await state.compare_and_set("k", "x", None)
            assert await taken(changes, 11) == [
                StateChange(Kind.SET, "k", None, {"a": 1}),
                StateChange(Kind.SET, "k", None, 5),
                StateChange(Kind.SET, "k", None, 7),
                StateChange(Kind.SET, "k", None, 8),
                StateChange(Kind.DELETED, "k"),
                StateChange(Kind.SET, "k", "f", b"\n\x00"),
                StateChange(Kind.SET, "k", "n", 1),
                StateChange(Kind.DELETED, "k", "f"),
                StateChange(Kind.DELETED, "k"),
                StateChange(Kind.SET, "k", None, "x"),
                StateChange(Kind.DELETED, "k"),
            ]

    asyncio.run(main())


def test_a_watch_on_a_prefix_hears_all_keys_that_begin_with_it(kept: Kept) -> None:
    """Literally: no character of it is special.  A key of the same text is another thing to watch."""

    async def main() -> None:
        async with (
            kept() as state,
            state.watch(prefix="a*[b]?\\") as odd,
            state.watch("a*[b]?\\") as same,
            state.watch(prefix="a") as all_of_a,
            state.watch(prefix="") as everything,
        ):
            for key in ("a*[b]?\\c", "axb", "b", "a*[b]?\\"):
                await state.set(key, 1)
            assert [change.key for change in await taken(everything, 4)] == ["a*[b]?\\c", "axb", "b", "a*[b]?\\"]
            assert [change.key for change in await taken(all_of_a, 3)] == ["a*[b]?\\c", "axb", "a*[b]?\\"]
            assert [change.key for change in await taken(odd, 2)] == ["a*[b]?\\c", "a*[b]?\\"]
            assert [change.key for change in await taken(same, 1)] == ["a*[b]?\\"]

    asyncio.run(main())


def test_a_watch_ends_with_its_block(kept: Kept) -> None:
    """Whoever waits for it is let go, others on the same key go on, and it can be begun again."""

    async def main() -> None:
        async with kept() as state, state.watch("k") as other:
            async with state.watch("k") as changes:

                async def all_of_them() -> list[StateChange]:
                    return [change async for change in changes]

                reading = asyncio.ensure_future(all_of_them())
                await state.set("k", 1)
                await taken(other, 1)
            async with asyncio.timeout(30):
                assert [change.value for change in await reading] == [1]
            await state.set("k", 2)
            assert [change.value for change in await taken(other, 1)] == [2]
            async with state.watch("k") as again:
                await state.set("k", 3)
                assert [change.value for change in await taken(again, 1)] == [3]

    asyncio.run(main())


def test_a_watch_that_reads_too_slowly_is_told_that_it_missed_some(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded; the newest is there."""
    monkeypatch.setattr(watches_module, "MOST_WAITING", 10)

    async def main() -> None:
        async with kept() as state, state.watch("k") as slow, state.watch("end") as end:
            for number in range(25):
                await state.set("k", number)
            await state.set("end", 1)
            await taken(end, 1)
            [first, *rest] = [await anext(slow) for _ in range(len(slow._waiting))]
            assert first == StateChange(Kind.MISSED, "k")
            assert rest[-1].value == 24
            assert len(rest) < 10

    asyncio.run(main())
