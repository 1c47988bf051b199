"""lb/rates.py, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb import rates
from lb.rates import Rates


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    """The last of it as well, and not one more."""
    limit = Rates(10, burst=5)
    assert [limit.take("a", 100.0) == 0 for _ in range(7)] == [True] * 5 + [False] * 2
    assert limit.take("a", 100.11) == 0
    assert limit.take("a", 100.11) > 0
    assert [limit.take("a", 200.0) == 0 for _ in range(6)] == [True] * 5 + [False]


def test_who_must_wait_is_told_how_long() -> None:
    """After that there is a token; refused requests take none."""
    limit = Rates(0.5, burst=1)
    assert limit.take("a", 0.0) == 0
    for _ in range(100):
        wait_s = limit.take("a", 0.0)
    assert 1.0 <= wait_s <= 2.0
    assert limit.take("a", wait_s + 0.001) == 0


def test_each_address_has_a_bucket_of_its_own() -> None:
    """One that floods takes nothing from the others."""
    limit = Rates(1, burst=1)
    assert limit.take("a", 0.0) == 0
    assert limit.take("a", 0.0) > 0
    assert limit.take("b", 0.0) == 0


@given(st.floats(0.01, 1e6), st.integers(1, 1000), st.lists(st.floats(0, 10), max_size=60), st.floats(0, 1e7))
def test_it_is_a_token_bucket(per_s: float, burst: int, gaps: list[float], now: float) -> None:
    """A plain one, that counts tokens, agrees but for half a token; so does one that never forgets."""
    limit, tokens = Rates(per_s, burst), float(burst)
    for gap in gaps:
        now += gap
        tokens = min(burst, tokens + gap * per_s)
        took = limit.take("a", now) == 0
        if tokens >= 1.001:
            assert took
        if tokens <= 0.499:
            assert not took
        tokens -= took


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=100))
def test_forgetting_full_buckets_changes_nothing(asks: list[tuple[str, float]]) -> None:
    """Each address gets what it would have if it were alone."""
    together, alone, now = Rates(2, 4), {name: Rates(2, 4) for name in "abc"}, 0.0
    for name, gap in asks:
        now += gap
        assert (together.take(name, now) == 0) is (alone[name].take(name, now) == 0)


def test_buckets_that_are_full_again_are_dropped() -> None:
    """Within twice the time that it takes to fill one."""
    limit = Rates(10, burst=20)
    for number in range(1000):
        limit.take(str(number), 0.0)
    assert len(limit) == 1000
    limit.take("a", 2.0)
    assert len(limit) == 1001
    limit.take("a", 4.0)
    assert len(limit) == 1
    for number in range(1000):
        limit.take(str(number), 5.0)
    limit.take("a", 100.0)
    assert len(limit) == 1


def test_a_flood_of_addresses_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not seen for longest are forgotten; who is seen all the time stays limited."""
    monkeypatch.setattr(rates, "MOST_ADDRESSES", 100)
    limit = Rates(0.001, burst=1)
    assert limit.take("busy", 0.0) == 0
    for number in range(10_000):
        assert limit.take(f"one of many {number}", 1.0) == 0
        assert len(limit) <= 200
        if number % 50 == 0:
            assert limit.take("busy", 1.0) > 0
