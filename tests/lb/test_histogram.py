"""lb/histogram.py: counts by how long things took."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.histogram import ANSWER_S, HANDSHAKE_S, LIFE_S, Histogram

VALUES = st.lists(st.integers(0, 100_000).map(lambda each: each / 8), max_size=30)


def counted(values: list[float]) -> Histogram:
    histogram = Histogram(LIFE_S)
    for value in values:
        histogram.add(value)
    return histogram


@given(VALUES)
def test_each_bucket_holds_all_up_to_its_bound(values: list[float]) -> None:
    """As Prometheus means `le`: the bound itself is in, and +Inf is everything."""
    histogram = counted(values)
    buckets = dict(histogram.buckets())
    for bound in LIFE_S:
        assert buckets[f"{bound:g}"] == sum(value <= bound for value in values)
    assert buckets["+Inf"] == len(values)
    assert histogram.sum == sum(values)


@given(VALUES, VALUES)
def test_the_sum_of_two_is_as_if_one_had_counted_all(ours: list[float], theirs: list[float]) -> None:
    """And the other one stays as it was."""
    one, two = counted(ours), counted(theirs)
    one += two
    assert (one, two) == (counted(ours + theirs), counted(theirs))


@given(VALUES)
def test_it_survives_the_way_through_json(values: list[float]) -> None:
    """To the worker that answers for all."""
    assert Histogram.from_dict(LIFE_S, json.loads(json.dumps(counted(values).to_dict()))) == counted(values)


@pytest.mark.parametrize("raw", [{}, {"counts": [1, 2], "sum": 1}, {"counts": [1] * 11}, {"counts": 5, "sum": 1}])
def test_what_another_version_wrote_is_refused(raw: dict[str, object]) -> None:
    """Counts of other buckets would be wrong ones of ours."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        Histogram.from_dict(LIFE_S, raw)


@pytest.mark.parametrize("bounds", [HANDSHAKE_S, ANSWER_S, LIFE_S])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    """Bisection needs it."""
    assert list(bounds) == sorted(set(bounds))
