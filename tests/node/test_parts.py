"""A node's users as another node follows them: whatever is lost or overtaken, both end with the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node import parts
from node.parts import BadEntry, Delta, Part, Position, device_from, entry_of
from node.roster import Attendance, Device, Seat

SEAT = Seat("n1", "i1", 3000)


def entry(user: str, since: float = 1.0) -> dict[str, Any]:
    return {"user": user, "since": since}


def delta(base: int, version: int, put: dict[str, Any] | None = None, *drop: str) -> Delta:
    return Delta("n1", "i1", Position(base, version), version - 1, put or {}, drop)


class Follower:
    """A part, and the users that it shows."""

    def __init__(self) -> None:
        self.users = Attendance(0.0, lambda: None)
        self.part = Part(SEAT, self.users)

    def sids(self) -> dict[str, str]:
        return {each.sid: user_id for user_id in self.users.roster for each in self.users.devices_of(user_id)}

    def load(self, at: Position, entries: dict[str, Any]) -> None:
        self.part.begin()
        self.part.start(at)
        self.part.read(entries.items())
        exhaust(self.part.complete())


def exhaust(steps: Iterator[None]) -> int:
    return sum(1 for _ in steps)


def test_a_part_that_was_never_read_must_be() -> None:
    """Changes alone do not tell what was there before."""
    follower = Follower()
    assert not follower.part.hear(delta(1, 2, {"a": entry("ann")}))
    assert follower.sids() == {}
    follower.load(Position(1, 2), {"a": entry("ann")})
    assert follower.sids() == {"a": "ann"}


def test_changes_follow_each_other() -> None:
    """One that was seen already is nothing; one after a gap means that the part must be read."""
    follower = Follower()
    follower.load(Position(1, 1), {})
    assert follower.part.hear(delta(1, 2, {"a": entry("ann")}))
    assert follower.part.hear(delta(1, 2, {"a": entry("cid")}))
    assert follower.part.hear(delta(1, 3, {"a": entry("bob")}))
    assert follower.sids() == {"a": "bob"}
    assert follower.part.has_reached(Position(1, 3))
    assert follower.part.can_reach(Position(1, 9))
    assert not follower.part.hear(delta(1, 5, {}, "a"))
    assert follower.part.at is None
    assert not follower.part.can_reach(Position(1, 9))
    assert follower.sids() == {"a": "bob"}, "the former entries stand"


def test_a_part_that_began_anew_must_be_read() -> None:
    """Its new content is told nobody."""
    follower = Follower()
    follower.load(Position(1, 1), {"a": entry("ann")})
    anew = Delta("n1", "i1", Position(2, 2))
    assert anew.begins_anew
    assert not follower.part.hear(anew)
    assert not follower.part.has_reached(Position(2, 2))
    follower.load(Position(2, 2), {"b": entry("bob")})
    assert follower.sids() == {"b": "bob"}


def test_what_changes_while_a_part_is_read_counts_more_than_what_was_read() -> None:
    """Before and after it is known where the part was, and for entries that came before, later or never."""
    follower = Follower()
    follower.load(Position(1, 1), {"gone": entry("gus"), "stays": entry("sue")})
    follower.part.begin()
    assert follower.part.hear(delta(1, 2, {"early": entry("eve")}))
    assert follower.part.hear(delta(1, 3, {"both": entry("bob")}))
    follower.part.start(Position(1, 2))
    follower.part.read([("stays", entry("sue")), ("early", entry("eve")), ("both", entry("former"))])
    assert follower.part.hear(delta(1, 4, {"later": entry("lea"), "never read": entry("ned")}, "early"))
    follower.part.read([("early", entry("eve")), ("later", entry("former"))])
    assert follower.part.is_being_read
    exhaust(follower.part.complete())
    assert not follower.part.is_being_read
    assert follower.part.has_reached(Position(1, 4))
    assert follower.sids() == {"stays": "sue", "both": "bob", "later": "lea", "never read": "ned"}


def test_a_change_that_was_missed_while_a_part_is_read_makes_it_be_read_again() -> None:
    """Nothing can be said of what the missed one changed."""
    follower = Follower()
    follower.part.begin()
    follower.part.start(Position(1, 1))
    assert not follower.part.hear(delta(1, 3, {}, "a"))
    assert not follower.part.hear(delta(1, 4, {}, "b"))
    exhaust(follower.part.complete())
    assert follower.part.at is None


def test_a_reading_that_is_given_up_loses_nothing() -> None:
    """Redis went away in the middle."""
    follower = Follower()
    follower.load(Position(1, 1), {"a": entry("ann"), "b": entry("bob")})
    follower.part.begin()
    follower.part.start(Position(1, 1))
    follower.part.read([("a", entry("ann"))])
    follower.part.give_up()
    assert follower.part.at is None
    assert follower.sids() == {"a": "ann", "b": "bob"}


def test_many_devices_are_dropped_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn in between."""
    monkeypatch.setattr(parts, "AT_ONCE", 10)
    follower = Follower()
    follower.load(Position(1, 1), {str(number): entry(str(number)) for number in range(35)})
    follower.part.begin()
    follower.part.start(Position(1, 1))
    follower.part.read([("7", entry("7"))])
    assert exhaust(follower.part.complete()) == 3
    assert follower.sids() == {"7": "7"}
    follower.load(Position(1, 1), {str(number): entry(str(number)) for number in range(35)})
    assert exhaust(follower.part.erase()) == 3
    assert (len(follower.part), follower.sids()) == (0, {})


def test_an_unreadable_entry_hides_no_other() -> None:
    """It is counted."""
    follower = Follower()
    follower.load(Position(1, 1), {"bad": None, "a": entry("ann"), "worse": {"user": 7}})
    assert follower.sids() == {"a": "ann"}
    assert follower.part.unreadable == 2


def test_what_is_written_reads_back() -> None:
    """Entries, changes and positions."""
    for device in (Device("a", "ann", SEAT, 1.5), Device("a", "ann", SEAT, 2.0, {"x": [1]})):
        assert device_from("a", orjson.loads(orjson.dumps(entry_of(device))), SEAT) == device
    change = Delta("n1", "i1", Position(1, 3), 2, {"a": entry("ann")}, ("b",))
    assert Delta.from_json(change.to_json()) == change
    assert not change.begins_anew
    assert Position.from_text(str(Position(1, 3))) == Position(1, 3)


@pytest.mark.parametrize("raw", [None, [], {"user": 1, "since": 1}, {"user": "a"}, {"user": "a", "since": True}])
def test_a_bad_entry_is_named(raw: object) -> None:
    """By its node and sid."""
    with pytest.raises(BadEntry, match="n1 abc"):
        device_from("abc", raw, SEAT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b'[2,"n1","i1",1,2,1,{},[]]',
        b'[1,7,"i1",1,2,1,{},[]]',
        b'[1,"n1","i1",1,"2",1,{},[]]',
        b'[1,"n1","i1",1,true,1,{},[]]',
        b'[1,"n1","i1",1,2,1,[],[]]',
        b'[1,"n1","i1",1,2,1,{},{}]',
        b'[1,"n1","i1",1,2,1,{},[7]]',
    ],
)
def test_a_bad_change_is_refused(text: bytes) -> None:
    """Of another version, or of somebody else; never with another error."""
    with pytest.raises(BadEntry, match="change of presence"):
        Delta.from_json(text)


@pytest.mark.parametrize("text", ["", "1", "1 ", "1 x", "-1 2", "1 2 3", "² 1"])
def test_a_bad_position_is_refused(text: str) -> None:
    """It says what it should look like."""
    with pytest.raises(BadEntry, match="position"):
        Position.from_text(text)


SIDS = st.sampled_from("abcd")
FATES = st.sampled_from(["delivered", "delivered", "late", "late", "lost"])


class Following(RuleBasedStateMachine):
    """One node changes its part; another hears of it late, or not at all, and reads it in pieces meanwhile.

    The model is the writer's own dictionary.  A piece of HSCAN may be older or newer than changes that are under way;
    entries that were there all the time are in it.
    """

    @initialize()
    def begin(self) -> None:
        self.redis: dict[str, Any] = {}
        self.at = Position(1, 1)
        self.under_way: deque[Delta] = deque()
        self.follower = Follower()
        self.follower.load(self.at, {})
        self.todo: list[str] | None = None
        self.answers: deque[list[tuple[str, Any]]] = deque()
        self.read_base = 0

    @rule(sid=SIDS, user=st.sampled_from(["ann", "bob", "cid"]), fate=FATES)
    def put(self, sid: str, user: str, fate: str) -> None:
        self.redis[sid] = entry(user)
        self.publish({sid: self.redis[sid]}, (), fate)

    @rule(sid=SIDS, fate=FATES)
    def drop(self, sid: str, fate: str) -> None:
        if self.redis.pop(sid, None) is not None:
            self.publish({}, (sid,), fate)

    def publish(self, put: dict[str, Any], drop: tuple[str, ...], fate: str) -> None:
        self.at = Position(self.at.base, self.at.version + 1)
        if fate != "lost":
            self.under_way.append(Delta("n1", "i1", self.at, self.at.version - 1, put, drop))
        if fate == "delivered":
            self.deliver_all()

    @rule(skipped=st.integers(1, 2), keep=st.booleans())
    def write_anew(self, skipped: int, keep: bool) -> None:
        version = self.at.version + skipped
        self.at = Position(version, version)
        if not keep:
            self.redis = dict(list(self.redis.items())[1:])
        self.under_way.append(Delta("n1", "i1", self.at))

    @rule()
    def deliver_one(self) -> None:
        if self.under_way:
            self.follower.part.hear(self.under_way.popleft())

    @rule()
    def deliver_all(self) -> None:
        while self.under_way:
            self.deliver_one()

    @rule(at_once=st.booleans())
    def start_reading(self, at_once: bool) -> None:
        if self.todo is None:
            self.follower.part.begin()
            self.todo = []
            self.read_base = 0
            if at_once:
                self.locate()

    @rule()
    def locate(self) -> None:
        if self.todo is not None and not self.read_base:
            self.follower.part.start(self.at)
            self.read_base = self.at.base
            self.todo = list("abcd")

    @rule(count=st.integers(1, 4))
    def answer(self, count: int) -> None:
        """Redis answers with a piece, which arrives later: what changes meanwhile may arrive before it."""
        if self.todo and self.read_base == self.at.base:
            piece, self.todo = self.todo[:count], self.todo[count:]
            self.answers.append([(sid, self.redis[sid]) for sid in piece if sid in self.redis])

    @rule()
    def arrive(self) -> None:
        if self.answers:
            self.follower.part.read(self.answers.popleft())

    @rule()
    def finish(self) -> None:
        if self.todo is not None and self.read_base:
            self.answer(len(self.todo) or 1)
            while self.answers:
                self.arrive()
            if self.read_base == self.at.base:
                exhaust(self.follower.part.complete())
            else:
                self.follower.part.give_up()
            self.todo = None

    @invariant()
    def who_is_in_step_has_the_same(self) -> None:
        """A part that says where it is, is there: with all later changes delivered it would be the writer's."""
        part = self.follower.part
        if part.at is not None and not self.under_way and part.has_reached(self.at):
            assert self.follower.sids() == {sid: each["user"] for sid, each in self.redis.items()}

    def teardown(self) -> None:
        """As the next looks do: deliver what comes, and read if that was not enough."""
        self.deliver_all()
        if self.todo is not None:
            self.follower.part.give_up()
        if not self.follower.part.has_reached(self.at):
            self.follower.load(self.at, self.redis)
        assert self.follower.part.has_reached(self.at)
        assert self.follower.sids() == {sid: each["user"] for sid, each in self.redis.items()}


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
