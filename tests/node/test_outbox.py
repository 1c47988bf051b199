"""node/outbox.py: in order, within its bounds, and nothing lost that Redis may not have given to everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.outbox import TAIL_BYTES, TAIL_S, Outbox


def test_what_is_taken_is_what_was_added_in_order() -> None:
    """About as much at once as was asked for, whole messages only."""
    box = Outbox(100, 10)
    for text in (b"aaaa", b"bb", b"cccccc", b"d"):
        assert box.add(text, 0)
    assert box.take(5) == b"aaaabb"
    assert (box.in_flight, box.is_waiting, len(box), box.size) == (2, True, 4, 13)
    assert box.take(1000) == b"ccccccd"
    assert box.take(1000) == b""
    for _ in range(4):
        box.confirmed(0)
    assert (box.size, len(box), box.is_waiting) == (0, 0, False)


def test_the_newest_is_refused_when_it_is_full() -> None:
    """Who sends it can be told; the others have been promised."""
    box = Outbox(10, 10)
    assert box.add(b"x" * 10, 0)
    assert not box.add(b"y", 1)
    assert box.dropped_full == 1
    assert box.take(1) == b"x" * 10
    assert not box.add(b"y", 1), "what is in flight counts until it is confirmed"
    box.confirmed(1)
    assert box.add(b"y", 1)


def test_a_message_larger_than_everything_goes_alone() -> None:
    """A limit on what waits is none on what one message may hold."""
    box = Outbox(10, 10)
    assert box.add(b"x" * 1000, 0)
    assert not box.add(b"y", 0)


def test_what_is_too_old_makes_room() -> None:
    """Before the newest is refused."""
    box = Outbox(10, 5)
    assert box.add(b"x" * 10, 0)
    assert box.add(b"y" * 10, 5.1)
    assert (box.dropped_old, box.dropped_full, box.take(100)) == (1, 0, b"y" * 10)


def test_only_what_waits_grows_old() -> None:
    """What was sent is Redis's to confirm."""
    box = Outbox(100, 5)
    box.add(b"sent", 0)
    box.take(1)
    box.add(b"old", 1)
    box.add(b"new", 9)
    assert box.expire(10) == 1
    assert (box.take(100), box.dropped_old) == (b"new", 1)
    assert box.rewind() == 2
    assert box.take(100) == b"sentnew"


def test_what_was_confirmed_lately_is_sent_again() -> None:
    """A Redis that died may have confirmed to us what it had not yet given to others."""
    box = Outbox(100, 5)
    for number, at in enumerate((0.0, 10.0, 10.5)):
        box.add(b"%d" % number, at)
    box.take(100)
    for _ in range(2):
        box.confirmed(10.6)
    box.add(b"3", 10.7)
    assert box.rewind() == 2, "1, and 2 which was in flight; 0 is known by everybody"
    assert box.take(100) == b"123"
    assert box.size == 3


def test_what_others_probably_have_does_not_count_as_dropped() -> None:
    """After an outage that was longer than the age."""
    box = Outbox(100, 5)
    box.add(b"known", 0)
    box.add(b"flying", 0)
    box.take(100)
    box.confirmed(0.1)
    box.rewind()
    assert box.expire(100) == 1
    assert (len(box), box.size, box.dropped_old) == (0, 0, 1)


def test_the_tail_is_bounded_in_time_and_bytes() -> None:
    """It costs memory on each node."""
    box = Outbox(1 << 30, 5)
    for number in range(100):
        box.add(b"x" * (TAIL_BYTES // 10), number / 1000)
        box.take(1)
        box.confirmed(number / 1000)
    assert box.rewind() <= 10
    box = Outbox(1 << 30, 5)
    for number in range(100):
        box.add(b"x", number / 10)
        box.take(1)
        box.confirmed(number / 10)
    assert box.rewind() <= TAIL_S * 10 + 1


def test_a_refused_message_is_not_sent_again() -> None:
    """It would be refused again."""
    box = Outbox(100, 5)
    box.add(b"bad", 0)
    box.take(1)
    box.refused()
    assert (box.rewind(), box.size) == (0, 0)


class Life(RuleBasedStateMachine):
    """Any life of an outbox: a receiver that knows numbers gets all that was promised, in order, once."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Outbox(200, 1e9)
        self.now = 0.0
        self.number = 0
        self.promised: list[int] = []
        self.wire: list[int] = []
        self.got: list[int] = []

    @rule(size=st.integers(1, 60))
    def publish(self, size: int) -> None:
        if self.box.add(b"%d,%b;" % (self.number, b"x" * size), self.now):
            self.promised.append(self.number)
        self.number += 1

    @rule(about=st.integers(1, 100))
    def send(self, about: int) -> None:
        self.wire += [int(each.split(b",")[0]) for each in self.box.take(about).split(b";") if each]

    @precondition(lambda self: self.wire)
    @rule(passed=st.floats(0, 0.5))
    def confirm(self, passed: float) -> None:
        self.now += passed
        self.take(self.wire.pop(0))
        self.box.confirmed(self.now)

    @rule(got=st.integers(0, 5))
    def lose(self, got: int) -> None:
        for number in self.wire[:got]:
            self.take(number)
        self.wire.clear()
        self.box.rewind()

    def take(self, number: int) -> None:
        if not self.got or number > self.got[-1]:
            self.got.append(number)

    @invariant()
    def in_order_and_nothing_left_out(self) -> None:
        assert self.got == self.promised[: len(self.got)]
        assert self.box.in_flight == len(self.wire)
        assert self.box.size >= 0

    def teardown(self) -> None:
        while self.box.is_waiting or self.wire:
            self.send(1000)
            while self.wire:
                self.confirm(0)
        assert self.got == self.promised
        assert self.box.size == 0


TestLife = Life.TestCase


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 10)), max_size=40))
def test_its_size_is_that_of_what_is_in_it(adds: list[tuple[int, float]]) -> None:
    """However much of it grew old."""
    box, now, kept = Outbox(500, 3), 0.0, 0
    for size, passed in adds:
        now += passed
        box.add(b"x" * size, now)
        box.expire(now)
    while taken := box.take(1):
        kept += len(taken)
    assert kept == box.size <= 500
