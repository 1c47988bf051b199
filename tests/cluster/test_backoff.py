"""cluster/backoff.py: delays between attempts."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from cluster.backoff import full_jitter


def test_bounds_double_up_to_the_most() -> None:
    """0.1, 0.2, 0.4, 0.8, then the most for ever."""
    delays = list(islice(full_jitter(0.1, 1.0, rng=lambda: 1.0), 7))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


@given(st.floats(0.001, 10), st.floats(10, 100), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_each_delay_lies_below_its_bound(first_s: float, most_s: float, chances: list[float]) -> None:
    """Full jitter: anywhere from zero."""
    chance = iter(chances)
    for number, delay in enumerate(islice(full_jitter(first_s, most_s, rng=lambda: next(chance)), len(chances))):
        assert 0 <= delay <= min(most_s, first_s * 2**number)


def test_processes_that_failed_together_do_not_come_back_together() -> None:
    """A hundred of them, fifth attempt: spread over the bound."""
    fifth = sorted(next(islice(full_jitter(0.1, 5.0), 4, None)) for _ in range(100))
    assert fifth[75] - fifth[25] > 0.2


def test_it_never_ends_and_never_overflows() -> None:
    """An outage of a week."""
    assert next(islice(full_jitter(0.1, 5.0, rng=lambda: 1.0), 100_000, None)) == 5.0
