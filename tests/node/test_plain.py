"""Plain data survives the way to another process."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.plain import NotPortable, check_plain

KEYS = st.text() | st.integers(-(2**70), 2**70)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
OTHERS = st.tuples(st.none()) | st.frozensets(st.integers()) | st.complex_numbers()
VALUES = st.recursive(LEAVES | OTHERS, lambda some: st.lists(some) | st.dictionaries(KEYS, some), max_leaves=10)


@given(VALUES)
def test_what_is_plain_comes_out_of_msgpack_as_it_went_in(value: Any) -> None:
    """What is not is refused before anything is sent."""
    try:
        check_plain(value, "it")
    except NotPortable:
        return
    assert msgpack.unpackb(msgpack.packb(value), strict_map_key=False) == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [object()]}, "it['a'][] is of type object"),
        ({(1, 2): 1}, "it has a key of type tuple"),
        ({"a": 2**64}, "it['a'] is an integer of more than 64 bits"),
        ({2**64: 1}, "it has a key that is an integer of more than 64 bits"),
    ],
)
def test_what_is_not_is_named(value: Any, said: str) -> None:
    """What it is, and where."""
    with pytest.raises(NotPortable) as refused:
        check_plain(value, "it")
    assert str(refused.value) == said


def test_no_number_is_too_odd() -> None:
    """NaN and infinity are numbers, too."""
    check_plain([math.nan, math.inf, -(2**63), 2**64 - 1, True], "it")
