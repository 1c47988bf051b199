"""When cyclic garbage is looked for.  There is one collector in a process: each test leaves it as it was."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster import collecting
from cluster.collecting import ALL_S, GROWTH, Collector
from tests.support.waiting import eventually, lastingly

PORTION = 1000


class Box:
    """Something that may refer to itself."""

    other: Box | None = None


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that few objects make one."""
    monkeypatch.setattr(collecting, "PORTION", PORTION)
    thresholds = gc.get_threshold()
    yield
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def collector(clock: Clock | None = None) -> Iterator[Collector]:
    """A collector that looks when it is told to, and not between."""
    loop = asyncio.new_event_loop()

    async def made() -> Collector:
        return Collector(clock or Clock())

    try:
        with loop.run_until_complete(made()) as found:
            yield found
    finally:
        loop.close()


def survivors(count: int) -> list[Box]:
    """Return objects that have outlived the young generations."""
    boxes = [Box() for _ in range(count)]
    gc.collect(1)
    gc.collect(1)
    return boxes


def test_what_is_there_at_the_start_is_put_away() -> None:
    """No collection visits it while the process serves, and everything is as before when it ends."""
    with collector():
        assert gc.get_freeze_count() > 1000
        assert gc.get_objects(generation=2) == []
    assert gc.get_freeze_count() == 0


def test_what_has_survived_is_put_away_by_the_portion() -> None:
    """The next portion does not visit it again."""
    with collector() as found:
        before = gc.get_freeze_count()
        kept = survivors(PORTION)
        found.look()
        assert gc.get_freeze_count() >= before + PORTION
        assert len(gc.get_objects(generation=2)) < PORTION
        assert len(kept) == PORTION


def test_less_than_a_portion_waits() -> None:
    """It costs a visit all the same, and more may come."""
    with collector() as found:
        before = gc.get_freeze_count()
        kept = survivors(PORTION // 2)
        found.look()
        assert gc.get_freeze_count() <= before
        assert len(gc.get_objects(generation=2)) >= len(kept)


def test_python_itself_makes_no_full_collection_meanwhile() -> None:
    """However much comes: that is the pause which is to be avoided."""
    full: list[int] = []

    def seen(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            full.append(1)

    with collector():
        gc.callbacks.append(seen)
        try:
            kept = [[Box()] for _ in range(300_000)]
        finally:
            gc.callbacks.remove(seen)
        assert (len(kept), full) == (300_000, [])


def cycle() -> weakref.ref[Box]:
    """Return what tells whether a cycle, to which nothing else refers, is still there."""
    one, other = Box(), Box()
    one.other, other.other = other, one
    return weakref.ref(one)


def test_a_cycle_among_what_has_come_goes_with_its_portion() -> None:
    """Before that is put away."""
    with collector() as found:
        kept = survivors(PORTION)
        gone = cycle()
        found.look()
        assert gone() is None
        assert len(kept) == PORTION


def test_what_was_put_away_goes_when_nobody_refers_to_it() -> None:
    """As every object does."""
    with collector() as found:
        kept = survivors(PORTION)
        found.look()
        gone = weakref.ref(kept[0])
        kept.clear()
        assert gone() is None


def test_a_cycle_among_what_was_put_away_goes_when_there_is_a_quarter_more(caplog: pytest.LogCaptureFixture) -> None:
    """Not before its time, and not as long as nothing has grown: a visit to all is what is to be avoided."""
    clock = Clock()
    with collector(clock) as found, caplog.at_level("INFO"):
        at_first = gc.get_freeze_count()
        one = Box()
        one.other = Box()
        one.other.other = one
        gone = weakref.ref(one)
        kept = survivors(PORTION)
        found.look()
        del one
        clock.now += ALL_S
        found.look()
        assert gone() is not None, "nothing has grown by a quarter"
        kept += survivors(round(at_first * (GROWTH - 1)) + PORTION)
        found.look()
        assert gone() is not None, "it is not time"
        clock.now += ALL_S
        found.look()
        assert gone() is None
        assert gc.get_freeze_count() > at_first * GROWTH
        visits = [record for record in caplog.records if record.message.startswith("all objects visited")]
        assert len(visits) == 1


def test_an_application_that_has_switched_the_collector_off_is_left_alone() -> None:
    """It knows better."""
    gc.disable()
    try:
        with collector():
            assert gc.get_freeze_count() == 0
            assert gc.get_threshold()[2] < 100
    finally:
        gc.enable()


def test_another_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy has neither generations nor gc.freeze."""
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    with collector():
        assert gc.get_freeze_count() == 0


def test_it_looks_by_itself_until_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again."""
    monkeypatch.setattr(collecting, "LOOK_S", 0.001)
    looks: list[None] = []
    monkeypatch.setattr(Collector, "look", lambda _: looks.append(None))

    async def main() -> None:
        with Collector():
            await eventually(lambda: len(looks) > 2)
        count = len(looks)
        await lastingly(lambda: len(looks) == count, 0.05)

    asyncio.run(main())
