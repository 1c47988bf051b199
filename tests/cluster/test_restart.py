"""cluster/restart.py: when a dead child is started again, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.restart import RestartLimits, RestartPolicy

LIMITS = RestartLimits(first_delay_s=0.1, most_delay_s=10.0, give_up_after=10, window_s=60.0)


def policy(limits: RestartLimits = LIMITS, chance: float = 1.0) -> RestartPolicy:
    return RestartPolicy(limits, rng=lambda: chance)


def test_delays_double_with_each_death() -> None:
    """From the first delay to the most."""
    it = policy(RestartLimits(0.1, 1.0, 100, 60.0))
    assert [it.died(0.0) for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_jitter_takes_at_most_half_of_a_delay() -> None:
    """Children that died together do not start together, and none is started at once."""
    assert policy(chance=0.0).died(0.0) == pytest.approx(0.05)
    assert policy(chance=1.0).died(0.0) == pytest.approx(0.1)


def test_a_child_that_dies_too_often_is_given_up() -> None:
    """The tenth death within a minute."""
    it = policy()
    assert all(it.died(float(second)) is not None for second in range(9))
    assert it.died(9.0) is None


def test_a_child_that_dies_now_and_then_is_never_given_up() -> None:
    """Each death is forgotten after a minute; its delay is the first one again."""
    it = policy()
    assert [it.died(61.0 * number) for number in range(50)] == pytest.approx([0.1] * 50)


def test_a_death_leaves_the_window_exactly_at_its_end() -> None:
    """Sixty seconds later it no longer counts."""
    it = policy()
    it.died(0.0)
    assert it.deaths(59.999) == 1
    assert it.deaths(60.0) == 0


def test_one_death_can_be_too_many() -> None:
    """give_up_after: 1 means no restart at all."""
    assert policy(RestartLimits(give_up_after=1)).died(0.0) is None


def test_limits_may_change_while_the_child_lives() -> None:
    """A reload of the configuration."""
    it = policy()
    for second in range(5):
        it.died(float(second))
    it.limits = RestartLimits(give_up_after=3)
    assert it.died(5.0) is None


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.5, 100))
def test_it_is_given_up_exactly_when_the_window_holds_too_many(gaps: list[float], limit: int, window_s: float) -> None:
    """Counted afresh from all deaths; every other delay lies within its bounds."""
    it = policy(RestartLimits(0.1, 10.0, limit, window_s), chance=0.5)
    now, deaths = 0.0, []
    for gap in gaps:
        now += gap
        deaths.append(now)
        delay = it.died(now)
        held = sum(now - at < window_s for at in deaths)
        assert it.deaths(now) == held
        if held >= limit:
            assert delay is None
        else:
            assert delay == pytest.approx(0.75 * min(10.0, 0.1 * 2 ** (held - 1)))
