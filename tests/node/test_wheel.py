"""The timer wheel, in virtual time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wheel import AT_ONCE, OUT, Wheel


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the wheel uses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.turns = 0
        self._timers: list[tuple[float, int, Handle, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = Handle()
        heapq.heappush(self._timers, (when, next(self._numbers), handle, callback))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self.now, callback)

    def run(self, until: float) -> None:
        while self._timers and self._timers[0][0] <= until:
            when, _, handle, callback = heapq.heappop(self._timers)
            if not handle.cancelled:
                self.now = max(self.now, when)
                self.turns += 1
                callback()
        self.now = until

    @property
    def is_idle(self) -> bool:
        return all(handle.cancelled for _, _, handle, _ in self._timers)


class Member:
    def __init__(self, then: Callable[[float], None] = lambda now: None) -> None:
        self.slot = OUT
        self.told: list[float] = []
        self._then = then

    def due(self, now: float) -> None:
        self.told.append(now)
        self._then(now)


def wheel_in(loop: Loop, tick_s: float = 0.5) -> Wheel:
    return Wheel(tick_s, cast(asyncio.AbstractEventLoop, loop))


@given(st.lists(st.tuples(st.floats(0, 60), st.booleans()), max_size=50), st.sampled_from([0.01, 0.3, 0.5]))
def test_everybody_is_told_once_within_a_tick_of_the_time(asked: list[tuple[float, bool]], tick_s: float) -> None:
    """`put_before` never tells later, `put_after` never earlier; what is due already is told with the next tick."""
    loop = Loop()
    wheel = wheel_in(loop, tick_s)
    members = []
    for delay, before in asked:
        member, at = Member(), loop.now + delay
        (wheel.put_before if before else wheel.put_after)(member, at)
        members.append((member, at, before))
    loop.run(loop.now + 100)
    for member, at, before in members:
        [told] = member.told
        assert member.slot == OUT
        if before:
            assert told <= max(at, 1000 + tick_s) + 1e-9
            assert told >= at - tick_s - 1e-9
        else:
            assert at - 1e-9 <= told <= max(at, 1000) + tick_s + 1e-9
    assert len(wheel) == 0
    assert loop.is_idle, "an empty wheel does not turn"


def test_who_was_taken_out_or_put_elsewhere_is_not_told_at_the_old_time() -> None:
    """One slot at a time."""
    loop = Loop()
    wheel = wheel_in(loop)
    gone, moved = Member(), Member()
    for member in (gone, moved):
        wheel.put_after(member, 1010)
    wheel.remove(gone)
    wheel.remove(gone)
    wheel.put_after(moved, 1020)
    assert wheel.sits_until(moved) == 1020
    assert len(wheel) == 1
    loop.run(1015)
    assert (gone.told, moved.told) == ([], [])
    loop.run(1030)
    assert (gone.told, moved.told) == ([], [1020])


def test_who_is_told_may_put_itself_in_again_and_take_others_out() -> None:
    """As a session that pings, and one whose end ends another."""
    loop = Loop()
    wheel = wheel_in(loop)
    other = Member()
    beating = Member(lambda now: wheel.put_before(beating, now + 5))
    first = Member(lambda now: wheel.remove(other))
    wheel.put_before(beating, 1005)
    wheel.put_after(first, 1002)
    wheel.put_after(other, 1003)
    loop.run(1021)
    assert beating.told == [1005, 1010, 1015, 1020]
    assert other.told == []


def test_many_at_once_are_told_in_several_turns() -> None:
    """The event loop gets to do something else in between."""
    loop = Loop()
    wheel = wheel_in(loop)
    members = [Member() for _ in range(3 * AT_ONCE)]
    for member in members:
        wheel.put_after(member, 1001)
    loop.run(1000.9)
    before = loop.turns
    loop.run(1001)
    assert loop.turns - before >= 3
    assert all(member.told == [1001] for member in members)


def test_one_that_fails_costs_the_others_nothing() -> None:
    """The failure is raised to the event loop, which reports it; everybody else is told in the same tick."""
    loop = Loop()
    wheel = wheel_in(loop)

    def fail(now: float) -> None:
        raise RuntimeError("as planned")

    members = [Member(), Member(fail), Member()]
    for member in members:
        wheel.put_after(member, 1001)
    with pytest.raises(RuntimeError, match="as planned"):
        loop.run(1001)
    loop.run(1001)
    assert [member.told for member in members] == [[1001]] * 3
    assert len(wheel) == 0


def test_a_loop_that_was_late_tells_everybody_in_order() -> None:
    """Suspended for an hour: what was due meanwhile is told at once, the earliest first."""
    loop = Loop()
    wheel = wheel_in(loop)
    order: list[Any] = []
    for at in (1030, 1010, 1020):
        wheel.put_after(Member(lambda now, at=at: order.append(at)), at)  # type: ignore[misc]
    loop.now = 4600
    loop.run(4600)
    assert order == [1010, 1020, 1030]


def test_a_stopped_wheel_tells_nobody_and_may_be_used_again() -> None:
    """`shutdown` of the engine."""
    loop = Loop()
    wheel = wheel_in(loop)
    member = Member()
    wheel.put_after(member, 1001)
    wheel.stop()
    wheel.stop()
    assert member.slot == OUT
    loop.run(1010)
    assert member.told == []
    wheel.put_after(member, 1011)
    loop.run(1012)
    assert member.told == [1011]
