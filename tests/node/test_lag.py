"""node/lag.py: how long things take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.lag import BOUNDS_MS, Histogram


def test_nothing_measured_is_no_lag() -> None:
    """A new node's figures are zero, not infinite."""
    assert Histogram().percentile(0.99) == 0.0


def test_percentiles_are_the_bounds_of_buckets() -> None:
    """Whoever reads one knows that so many were at least as fast."""
    histogram = Histogram()
    for ms in (0.1,) * 50 + (1.5,) * 49 + (400.0,):
        histogram.add(ms)
    assert (histogram.percentile(0.5), histogram.percentile(0.99), histogram.percentile(1)) == (0.5, 2.0, 500.0)
    assert histogram.count == 100


def test_a_clock_that_is_behind_makes_no_negative_lag() -> None:
    """Two hosts never agree to the millisecond."""
    histogram = Histogram()
    histogram.add(-5)
    assert (histogram.sum_ms, histogram.percentile(1)) == (0.0, 0.5)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_so_many_are_not_above_the_percentile(values: list[float], share: float) -> None:
    """For any values."""
    histogram = Histogram()
    for ms in values:
        histogram.add(ms)
    bound = histogram.percentile(share)
    assert sum(ms <= bound for ms in values) >= share * len(values) - 1e-9
    assert bound in (*map(float, BOUNDS_MS), float("inf"))
