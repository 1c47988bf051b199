"""Who is still missing: by Redis's count while it adds up, by name when it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.survey import Survey


def survey(channels: int = 1, own: tuple[int, ...] = ()) -> Survey:
    return Survey(channels, own, lambda piece: piece)


def test_it_is_complete_when_as_many_answered_as_have_it() -> None:
    """Not before Redis has counted them, and not before each has said its last word."""
    asked = survey()
    asked.answered("a", (False, (0,), "A"), "")
    assert not asked.is_complete
    asked.counted(0, 2)
    assert not asked.is_complete
    asked.answered("b", (True, (0,), 1), "")
    assert asked.is_counted
    assert not asked.is_complete
    assert asked.missing == ("b",)
    asked.answered("b", (False, (0,), 2), "")
    assert asked.is_complete
    assert asked.pieces == {"a": ["A"], "b": [1, 2]}


def test_we_are_counted_where_we_listen() -> None:
    """Redis does not know that we need not answer."""
    asked = survey(2, own=(1,))
    asked.counted(0, 0)
    asked.counted(1, 1)
    assert asked.is_complete


def test_nobody_listens_nobody_is_waited_for() -> None:
    """A node that is gone has no subscription."""
    asked = survey()
    asked.counted(0, 0)
    assert asked.is_complete
    assert asked.missing == ()


def test_who_listens_on_two_channels_answers_for_both() -> None:
    """Else nobody could tell whether somebody else is missing."""
    asked = survey(2)
    asked.counted(0, 1)
    asked.counted(1, 2)
    asked.answered("a", (False, (0, 1)), "")
    assert not asked.is_complete
    asked.answered("b", (False, (1,)), "")
    assert asked.is_complete


def test_the_roll_decides_when_the_count_does_not_add_up() -> None:
    """By name; whoever is struck off is not missing, and what it had half said is forgotten."""
    asked = survey()
    asked.counted(0, 3)
    asked.answered("a", (True, (0,), "half"), "")
    assert asked.call_roll(["a", "b", "c"]) == ["b", "c"]
    asked.answered("b", (False, ()), "")
    assert asked.missing == ("a", "c")
    asked.strike(["a", "b"])
    assert asked.pieces == {"b": []}
    assert not asked.is_complete
    asked.strike(["c"])
    assert asked.is_complete


def test_failures_count_as_answers() -> None:
    """And what comes after the last word does not."""
    asked = survey()
    asked.counted(0, 1)
    asked.answered("a", None, "unknown operation")
    asked.answered("a", (False, (0,), "late"), "")
    assert asked.failed == {"a": "unknown operation"}
    assert asked.pieces == {}
    assert asked.call_roll(["a"]) == []
    assert asked.is_complete


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text(max_size=2) | st.binary(max_size=2),
    lambda inner: (
        st.tuples(inner, inner) | st.tuples(inner, inner, inner) | st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=6,
)


@given(st.lists(values))
def test_nonsense_is_a_failure_of_who_says_it(said: list[Any]) -> None:
    """Whatever it is."""
    asked = survey()
    for number, value in enumerate(said):
        asked.answered(f"n{number}", value, "")
    for name in asked.failed:
        assert name not in asked.pieces


def test_a_piece_that_cannot_be_read_is_a_failure() -> None:
    """The reader says so."""
    asked = Survey(1, (), int)
    asked.answered("a", (False, (0,), "x"), "")
    asked.answered("b", (False, (0,), ()), "")
    assert asked.failed == dict.fromkeys("ab", "its answer is not understood")


@pytest.mark.parametrize("places", [(1,), (-1,), ("0",), 0])
def test_places_are_those_of_the_question(places: Any) -> None:
    """Nobody listens on a channel that was not asked."""
    asked = survey()
    asked.answered("a", (False, places), "")
    assert asked.failed
