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
    admission.leave("192.0.2.1")
    assert admission.admit()
    assert not told
    admission.leave("192.0.2.1")
    admission.leave("192.0.2.1")
    assert told == ["empty"]


def test_only_some_of_the_refused_may_stay_to_read_why() -> None:
    """A crowd of them would take the descriptors that the limit is there to keep."""
    admission = Admission(0)
    assert [admission.linger() for _ in range(MOST_LINGERING + 1)] == [True] * MOST_LINGERING + [False]
    admission.gone()
    assert admission.linger()


def test_one_address_has_so_many_connections_here_and_at_nodes() -> None:
    """A network of IPv6 is one address; what is handed over counts until it has ended."""
    admission = Admission(10, per_address=2)
    for address in ("2001:db8::1", "2001:db8::2"):
        assert admission.admit()
        assert admission.enter(address)
    assert not admission.enter("2001:db8::3")
    assert admission.enter("2001:db8:0:1::1"), "another network"
    admission.hand_over()
    assert not admission.enter("2001:db8::3")
    admission.ended("2001:db8::1")
    assert admission.enter("2001:db8::3")
    admission.leave("2001:db8::2")
    admission.ended("2001:db8::3")
    admission.ended("2001:db8:0:1::1")
    assert not admission._by_address, "who has left is forgotten"


def test_a_proxy_is_not_taken_for_one_client() -> None:
    """It brings everybody; how many there may be in all is another limit."""
    admission = Admission(3, per_address=1, brings_others=lambda address: address == "10.0.0.1")
    for _ in range(3):
        assert admission.admit()
        assert admission.enter("10.0.0.1")
    assert not admission.admit()
    admission.ended("10.0.0.1")
    assert admission.enter("192.0.2.1")
    assert not admission.enter("192.0.2.1")


def test_without_a_limit_no_address_is_remembered() -> None:
    """Millions may come."""
    admission = Admission(10)
    assert admission.enter("192.0.2.1")
    admission.ended("192.0.2.1")
    assert not admission._by_address
