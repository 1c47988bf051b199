"""lb/pacing.py, lb/conduct.py and lb/crowd.py: limits and counts in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.conduct import FORGIVEN_S, FREE_FALLS, Conduct, Rules
from lb.crowd import ENOUGH, REMEMBERED, Crowd
from lb.pacing import BURST_S, Pace

GAPS = st.lists(st.floats(0, 2), min_size=1, max_size=200)


@given(st.floats(0.5, 5000), GAPS)
def test_no_more_turns_than_the_pace_and_one_burst(per_s: float, gaps: list[float]) -> None:
    """However they come: over any time, the pace times that time, the burst and one more at most."""
    pace, now, taken = Pace(per_s), 1000.0, 0
    for gap in gaps:
        now += gap
        while pace.opens_at <= now:
            pace.take(now)
            taken += 1
    assert taken <= per_s * (now - 1000.0 - gaps[0] + BURST_S) + 1.000_001


@given(st.floats(0.5, 5000), st.floats(0, 1e6))
def test_whoever_waits_for_the_next_turn_gets_it(per_s: float, now: float) -> None:
    """`opens_at` is when: never later than one spacing after the turn before."""
    pace = Pace(per_s)
    while pace.opens_at <= now:
        pace.take(now)
    assert now < pace.opens_at <= now + 1 / per_s + 1e-6


def test_zero_is_any_number() -> None:
    """No limit is set."""
    pace = Pace(0)
    for _ in range(1000):
        assert pace.opens_at <= 5.0
        pace.take(5.0)


RULES = Rules(after=3, first_s=5, most_s=30)


def failing(conduct: Conduct, now: float, times: int = 3) -> float | None:
    found = [conduct.failed(now, RULES) for _ in range(times)]
    return next((seconds for seconds in found if seconds is not None), None)


def test_so_many_failures_in_a_row_eject_and_a_success_between_does_not() -> None:
    """`after` is 3."""
    conduct = Conduct()
    assert failing(conduct, 100, 2) is None
    conduct.served()
    assert failing(conduct, 101, 2) is None
    assert conduct.failed(102, RULES) == 5
    assert conduct.until == 107


def test_each_ejection_is_twice_as_long_up_to_the_most() -> None:
    """A node that fails again at once needs more time, or a person."""
    conduct, now, seconds = Conduct(), 100.0, []
    for _ in range(5):
        seconds.append(failing(conduct, now))
        now = conduct.until
    assert seconds == [5, 10, 20, 30, 30]


def test_what_fails_while_it_is_out_does_not_count() -> None:
    """Those were sent there before."""
    conduct = Conduct()
    failing(conduct, 100)
    assert failing(conduct, 104, 10) is None


def test_whoever_fails_first_after_an_ejection_ends_the_trial() -> None:
    """The node had its time, and is as it was; but once one was served, it is a node like any other."""
    conduct = Conduct()
    failing(conduct, 100)
    assert conduct.failed(105, RULES) == 10
    conduct.served()
    assert failing(conduct, 115, 2) is None
    assert conduct.failed(116, RULES) == 20


def test_time_without_another_ejection_is_forgiving() -> None:
    """A minute for each."""
    conduct = Conduct()
    failing(conduct, 100)
    failing(conduct, 105)
    assert failing(conduct, conduct.until + FORGIVEN_S) == 10
    assert failing(conduct, conduct.until + 10 * FORGIVEN_S) == 5


def test_nobody_is_ejected_where_that_is_off() -> None:
    """`after` is 0."""
    assert all(Conduct().failed(float(now), Rules(after=0)) is None for now in range(100))


def test_a_node_that_falls_again_and_again_stays_out_for_longer_each_time() -> None:
    """The first two cost it nothing: it was restarted, and once more."""
    conduct, now, seconds = Conduct(), 100.0, []
    for _ in range(7):
        seconds.append(conduct.fell(now, RULES))
        now = max(now + 1, conduct.until)
    assert seconds == [None, None, 5, 10, 20, 30, 30]
    assert conduct.why == "fell 7 times lately"
    assert conduct.fell(now + FORGIVEN_S * 10, RULES) is None, "falls are forgiven as ejections are"


def test_time_that_a_node_must_stay_out_is_no_good_conduct() -> None:
    """Only what comes behind it is."""
    conduct = Conduct()
    for now in range(FREE_FALLS + 4):
        conduct.fell(100.0 + now, RULES)
    assert conduct.until == 135
    assert conduct.fell(136, RULES) == 30
    assert conduct.fell(conduct.until + 2 * FORGIVEN_S, RULES) == 30
    assert conduct.fell(conduct.until + 3 * FORGIVEN_S, RULES) == 10


def test_a_fall_does_not_shorten_an_ejection() -> None:
    """The longer of both counts."""
    conduct = Conduct(falls=FREE_FALLS, fell_at=100, until=200)
    assert conduct.fell(101, RULES) == 5
    assert (conduct.until, conduct.why) == (200, "failed clients")


def test_falls_are_not_counted_where_ejection_is_off() -> None:
    """`after` is 0."""
    conduct = Conduct()
    assert all(conduct.fell(float(now), Rules(after=0)) is None for now in range(100))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 400)), max_size=300))
def test_an_ejection_never_lasts_longer_than_the_most_nor_shorter_than_the_first(
    steps: list[tuple[bool, float]],
) -> None:
    """Whatever happens before."""
    conduct, now = Conduct(), 0.0
    for well, gap in steps:
        now += gap
        if well:
            conduct.served()
        elif (seconds := conduct.failed(now, RULES)) is not None:
            assert RULES.first_s <= seconds <= RULES.most_s
            assert conduct.until == now + seconds


def test_few_clients_say_nothing_of_a_crowd() -> None:
    """One developer with ten tabs is no proxy."""
    crowd = Crowd()
    for _ in range(ENOUGH - 1):
        crowd.saw("10.0.0.1")
    assert crowd.largest() == ("", 0.0)
    crowd.saw("10.0.0.1")
    assert crowd.largest() == ("10.0.0.1", 1.0)


def test_the_share_of_the_most_frequent_address_is_told() -> None:
    """One in five came from elsewhere."""
    crowd = Crowd()
    for number in range(200):
        crowd.saw("10.0.0.1" if number % 5 else f"192.0.2.{number}")
    address, share = crowd.largest()
    assert (address, round(share, 2)) == ("10.0.0.1", 0.8)


@given(st.lists(st.integers(0, 5000), max_size=3000))
def test_a_crowd_is_remembered_in_bounded_memory_and_fades(addresses: list[int]) -> None:
    """Never more addresses than clients remembered."""
    crowd = Crowd()
    for address in addresses:
        crowd.saw(str(address))
        assert len(crowd.counts) <= crowd.total < REMEMBERED
        assert sum(crowd.counts.values()) == crowd.total
