"""What the chat takes from clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chat.inputs import MAX_TEXT, MAX_USERNAME, BadInput, text_in, username_in

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["username", "text", "message", "x"]), inner),
)


@pytest.mark.parametrize("data", ["ann", " ann\n", {"username": "ann"}, {"username": "ann ", "more": 1}])
def test_a_username_comes_plain_or_in_an_object_and_is_trimmed(data: object) -> None:
    """Clients differ; both forms are the contract."""
    assert username_in(data) == "ann"


@pytest.mark.parametrize(
    "data",
    [
        None,
        "",
        "  ",
        "a" * (MAX_USERNAME + 1),
        "a\nb",
        "a\x00",
        "\ud800",
        7,
        [],
        {},
        {"username": None},
        {"username": {}},
    ],
)
def test_a_username_outside_the_limits_is_refused(data: object) -> None:
    """The error says what is allowed."""
    with pytest.raises(BadInput, match="1 to 32 printable characters"):
        username_in(data)


@pytest.mark.parametrize("data", ["hi\nthere", {"text": "hi\nthere"}, {"message": "hi\nthere"}])
def test_a_text_comes_plain_or_in_an_object_and_stays_as_it_is(data: object) -> None:
    """Line breaks and white space are the writer's own."""
    assert text_in(data) == "hi\nthere"


@pytest.mark.parametrize("data", [None, "", " \n", "a" * (MAX_TEXT + 1), "\ud800", 7, [], {}, {"text": 7}])
def test_a_text_outside_the_limits_is_refused(data: object) -> None:
    """Also half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    with pytest.raises(BadInput, match="1 to 2000 characters"):
        text_in(data)


def test_the_limits_themselves_are_allowed() -> None:
    """In characters, not in bytes."""
    assert len(username_in("ä" * MAX_USERNAME)) == MAX_USERNAME
    assert len(text_in("\U0001f600" * MAX_TEXT)) == MAX_TEXT


@given(ANYTHING)
def test_anything_is_taken_or_refused_and_nothing_else_happens(data: object) -> None:
    """What is taken can be sent on."""
    for read in (username_in, text_in):
        try:
            value = read(data)
        except BadInput:
            continue
        assert value.strip()
        assert value.encode()
