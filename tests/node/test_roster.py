"""Users behind devices, and what there is to tell of them: each comes once and leaves once, after its grace."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.roster import Attendance, Device, Seat, user_of

HERE, THERE = Seat("n1", "i1", 1), Seat("n2", "i1", 2)


def device(sid: str, user_id: str = "ann", seat: Seat = HERE, since: float = 1.0, meta: object = None) -> Device:
    return Device(sid, user_id, seat, since, meta)


def attendance(grace_s: float = 0.0) -> Attendance:
    return Attendance(grace_s, lambda: None)


def told(of: Attendance, now: float = 0.0, most: int = 100) -> tuple[list[str], list[str]] | None:
    change = of.collect(now, most)
    if change is None:
        return None
    return [user.user_id for user in change.joined], [user.user_id for user in change.left]


def test_devices_of_one_name_are_one_user_on_all_their_nodes() -> None:
    """Nodes and ports are named once, the longest there first; since the first device, with the last one's meta."""
    users = attendance()
    for each in (
        device("b", seat=THERE, since=2.0),
        device("a", since=1.0, meta="old"),
        device("c", since=3.0, meta="new"),
    ):
        users.add(each)
    [ann] = users.roster.values()
    assert (ann.devices, ann.nodes, ann.ports, ann.since, ann.meta) == (3, ("n1", "n2"), (1, 2), 1.0, "new")
    assert [each.sid for each in users.devices_of("ann")] == ["a", "b", "c"]
    assert users.devices_of("bob") == []


def test_two_devices_of_one_sid_on_two_nodes_are_two() -> None:
    """A sid is unique on its node; nothing is lost if another node has the same."""
    users = attendance()
    users.add(device("a"))
    users.add(device("a", seat=THERE))
    users.remove(device("a"))
    assert users.devices_of("ann") == [device("a", seat=THERE)]


def test_a_second_device_is_a_change_but_no_arrival() -> None:
    """Who asks for the list gets it; nobody is told that somebody joined."""
    users = attendance()
    users.add(device("a"))
    assert told(users) == (["ann"], [])
    users.add(device("b"))
    assert told(users) == ([], [])
    users.remove(device("a"))
    assert told(users) == ([], [])
    assert told(users) is None
    users.remove(device("b"))
    assert told(users) == ([], ["ann"])


def test_a_move_to_another_node_is_neither_arrival_nor_departure() -> None:
    """A client that reconnects elsewhere between two looks never left."""
    users = attendance()
    users.add(device("a"))
    told(users)
    users.remove(device("a"))
    users.add(device("b", seat=THERE))
    assert told(users) == ([], [])


def test_who_came_and_went_between_two_looks_was_never_there() -> None:
    """There is nothing to tell."""
    users = attendance()
    users.add(device("a"))
    users.remove(device("a"))
    assert told(users) is None


def test_who_is_back_within_the_grace_has_not_left() -> None:
    """The list is of now, all the same."""
    users = attendance(grace_s=2)
    users.add(device("a"))
    told(users, 0)
    users.remove(device("a"))
    assert "ann" not in users.roster
    assert told(users, 1) == ([], [])
    assert users.due_at() == 3
    assert not users.is_due(2.9)
    users.add(device("b"))
    assert told(users, 2.9) == ([], [])
    assert users.due_at() is None
    assert told(users, 100) is None


def test_who_is_not_back_when_the_grace_ends_has_left_once() -> None:
    """With what was last seen of the user; who goes again while away has a whole new grace."""
    users = attendance(grace_s=2)
    users.add(device("a", seat=THERE))
    told(users, 0)
    users.remove(device("a", seat=THERE))
    told(users, 0)
    users.add(device("b"))
    users.remove(device("b"))
    assert told(users, 1.5) == ([], [])
    assert told(users, 2.5) is None
    change = users.collect(3.5, 10)
    assert change is not None
    assert change.left == (user_of([device("b")]),)
    assert told(users, 100) is None


def test_who_is_back_as_the_grace_ends_has_not_left() -> None:
    """Also if so much is to be told that the return is not told yet."""
    users = attendance(grace_s=2)
    users.add(device("a", "ann"))
    told(users, 0)
    users.remove(device("a", "ann"))
    told(users, 0)
    users.add(device("b", "bob"))
    users.add(device("c", "ann"))
    assert told(users, 5, most=1) == (["bob"], [])
    assert told(users, 5, most=1) == ([], [])
    assert told(users, 100) is None


def test_what_is_told_at_once_is_bounded() -> None:
    """A thousand users who come or leave together are many small changes."""
    users = attendance()
    for number in range(10):
        users.add(device(str(number), str(number)))
    assert told(users, most=4) == (["0", "1", "2", "3"], [])
    assert told(users, most=4) == (["4", "5", "6", "7"], [])
    assert told(users, most=4) == (["8", "9"], [])
    for number in range(10):
        users.remove(device(str(number), str(number)))
    left = []
    while (change := told(users, most=3)) is not None:
        assert len(change[1]) <= 3
        left += change[1]
    assert left == [str(number) for number in range(10)]


def test_whoever_iterates_sees_the_users_of_one_moment() -> None:
    """However they change meanwhile; everything else is of now."""
    users = attendance()
    users.add(device("a", "ann"))
    roster = users.roster
    for _ in roster:
        users.add(device("b", "bob"))
    for _ in roster.values():
        users.add(device("c", "cid"))
    for _ in roster.items():
        users.add(device("d", "dan"))
    assert (len(roster), "dan" in roster, repr(roster)) == (4, True, "<Roster of 4>")


def test_it_is_said_when_there_is_something_to_tell() -> None:
    """Once, until it was told."""
    stirs: list[int] = []
    users = Attendance(0.0, lambda: stirs.append(1))
    users.add(device("a", "ann"))
    users.add(device("b", "bob"))
    assert len(stirs) == 1
    told(users)
    users.remove(device("a", "ann"))
    assert len(stirs) == 2


GRACE_S = 3.0


class Telling(RuleBasedStateMachine):
    """Whatever comes and goes: who is told as joined was not there, who left was, and all is told in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.users = attendance(GRACE_S)
        self.devices: dict[tuple[str, str], Device] = {}
        self.now = 0.0
        self.gone_at: dict[str, float] = {}
        self.heard: set[str] = set()

    @rule(sid=st.sampled_from("abcd"), seat=st.sampled_from([HERE, THERE]), user=st.sampled_from(["ann", "bob"]))
    def come(self, sid: str, seat: Seat, user: str) -> None:
        if (seat.node, sid) not in self.devices:
            self.devices[seat.node, sid] = device(sid, user, seat, since=self.now)
            self.users.add(self.devices[seat.node, sid])
            self.gone_at.pop(user, None)

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.devices:
            gone = self.devices.pop(data.draw(st.sampled_from(sorted(self.devices))))
            self.users.remove(gone)
            if gone.user_id not in self.online():
                self.gone_at[gone.user_id] = self.now

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 4.0]), most=st.integers(1, 3))
    def tell(self, seconds: float, most: int) -> None:
        self.now += seconds
        change = self.users.collect(self.now, most)
        for user in change.joined if change else ():
            assert user.user_id not in self.heard
            assert user.user_id in self.online()
            self.heard.add(user.user_id)
        for user in change.left if change else ():
            assert user.user_id in self.heard
            assert self.now >= self.gone_at[user.user_id] + GRACE_S, "within the grace"
            self.heard.discard(user.user_id)

    def online(self) -> set[str]:
        return {each.user_id for each in self.devices.values()}

    @invariant()
    def the_roster_is_of_now(self) -> None:
        assert set(self.users.roster) == self.online()
        assert sum(user.devices for user in self.users.roster.values()) == len(self.devices)

    def teardown(self) -> None:
        for _ in range(5):
            self.tell(GRACE_S, 10)
        assert self.heard == self.online()
        assert not self.users.is_due(self.now + 100)


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
