"""How many clients at once."""

from __future__ import annotations

import pytest

from lb.limits import MOST_LINGERING, Admission, connection_limit


@pytest.mark.parametrize(
    ("configured", "descriptors", "expected"),
    [(0, 1064, 500), (100, 1064, 100), (900, 1064, 500), (0, 10, 1), (5, 10, 1)],
)
def test_clients_are_limited_by_wish_and_by_descriptors(configured: int, descriptors: int, expected: int) -> None:
    """A tunnel takes two descriptors, and running out of them would hit everybody."""
    assert connection_limit(configured, descriptors) == expected


def test_places_are_given_back_and_the_last_one_tells() -> None:
    """A stopping worker waits for that."""
    told: list[str] = []
    admission = Admission(2, on_empty=lambda: told.append("empty"))
    assert admission.admit()
    assert admission.admit()
    assert not admission.admit()
    admission.leave()
    assert admission.admit()
    assert not told
    admission.leave()
    admission.leave()
    assert told == ["empty"]


def test_only_some_of_the_refused_may_stay_to_read_why() -> None:
    """A crowd of them would take the descriptors that the limit is there to keep."""
    admission = Admission(0)
    assert [admission.linger() for _ in range(MOST_LINGERING + 1)] == [True] * MOST_LINGERING + [False]
    admission.gone()
    assert admission.linger()
