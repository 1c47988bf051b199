"""Devices, users and what changes between two rosters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.roster import BadEntry, Device, change_between, roster_of


def device(sid: str, username: str, *, node: str = "n1", port: int = 1, since: float = 1.0) -> Device:
    return Device(sid, username, node, "i1", port, since)


DEVICES = st.lists(
    st.builds(
        Device,
        sid=st.text("abc", min_size=1, max_size=4),
        username=st.sampled_from(["ann", "bob", "cid"]),
        node=st.sampled_from(["n1", "n2"]),
        incarnation=st.just("i1"),
        port=st.integers(1, 3),
        since=st.floats(0, 100),
    ),
    unique_by=lambda one: one.field,
)


def test_devices_of_one_name_are_one_user_on_all_their_nodes() -> None:
    """Nodes and ports are named once, the longest there first; the user is online since the first device."""
    roster = roster_of(
        [
            device("b", "ann", node="n2", port=2, since=2.0),
            device("a", "ann", node="n1", port=1, since=1.0),
            device("c", "ann", node="n1", port=1, since=3.0),
        ]
    )
    [ann] = roster.values()
    assert (ann.devices, ann.nodes, ann.ports, ann.since) == (3, ("n1", "n2"), (1, 2), 1.0)


def test_a_second_device_is_a_change_but_no_arrival() -> None:
    """Who asks for the list gets it; nobody is told that somebody joined."""
    one = roster_of([device("a", "ann")])
    two = roster_of([device("a", "ann"), device("b", "ann", since=2.0)])
    change = change_between(one, two)
    assert change is not None
    assert (change.joined, change.left, change.roster) == ((), (), two)


def test_a_move_to_another_node_is_neither_arrival_nor_departure() -> None:
    """A client that reconnects elsewhere between two pictures never left."""
    change = change_between(roster_of([device("a", "ann")]), roster_of([device("b", "ann", node="n2")]))
    assert change is not None
    assert not change.joined
    assert not change.left


@given(DEVICES, DEVICES)
def test_a_change_leads_from_one_roster_to_the_other(before: list[Device], after: list[Device]) -> None:
    """Who joined was not there, who left is not there, and nobody does both."""
    old, new = roster_of(before), roster_of(after)
    change = change_between(old, new)
    if change is None:
        assert old == new
        return
    joined, left = {user.username for user in change.joined}, {user.username for user in change.left}
    assert (set(old) | joined) - left == set(new)
    assert not joined & set(old)
    assert not left & set(new)


@given(DEVICES)
def test_a_roster_counts_every_device_once(devices: list[Device]) -> None:
    """Whatever the order in which they come."""
    assert sum(user.devices for user in roster_of(devices).values()) == len(devices)
    assert roster_of(devices) == roster_of(reversed(devices))


@given(DEVICES)
def test_an_entry_reads_back_as_it_was_written(devices: list[Device]) -> None:
    """Field and value together hold the whole device."""
    assert [Device.from_entry(one.field, one.to_json()) for one in devices] == devices


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("n1 i1", '{"username":"ann","port":1,"since":1}'),
        ("n1 i1 a", "not json"),
        ("n1 i1 a", "[]"),
        ("n1 i1 a", "1"),
        ("n1 i1 a", '{"username":"ann","port":1}'),
        ("n1 i1 a", '{"username":5,"port":1,"since":1}'),
        ("n1 i1 a", '{"username":"ann","port":"1","since":1}'),
        ("n1 i1 a", '{"username":"ann","port":1,"since":"now"}'),
    ],
)
def test_an_unreadable_entry_is_named(field: str, text: str) -> None:
    """The error says which entry it was."""
    with pytest.raises(BadEntry, match=field):
        Device.from_entry(field, text)
