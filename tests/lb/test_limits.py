"""How many clients at once."""

from __future__ import annotations

import pytest

from lb.limits import Admission, connection_limit


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
