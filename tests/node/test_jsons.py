"""JSON as the standard module means it, whatever orjson would do."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import jsons

ANYTHING = r"."


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Ratio(float, enum.Enum):
    HALF = 0.5


class Name(str):
    """A string of an application's own type."""


class Count(int):
    """A number of an application's own type."""


@dataclasses.dataclass
class Point:
    x: int = 1


Pair = namedtuple("Pair", "left right")

ALIKE: list[Any] = [
    Level.HIGH,
    Word.YES,
    Ratio.HALF,
    Name("name"),
    Count(7),
    Pair(1, 2),
    (1, (2, 3)),
    OrderedDict(a=1),
    {1: "a", 2.5: "b", False: "c", None: "d"},
    {1: "a", "1": "b"},
    {Name("key"): 1},
    2**63,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**99,
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    1e16,
    1e-7,
    5e-324,
    "\ud800",
    {"\udfff": "\ud83d"},
    '\x00\x1f\x7f\u2028\u2029é😀\\"/<',
    "",
    [],
    {},
    None,
    True,
    [[None, math.nan]],
    [[[]]] * 3,
]

REFUSED: list[Any] = [
    Colour.RED,
    [Colour.RED],
    {"a": {"b": Colour.RED}},
    uuid.UUID(int=1),
    [uuid.UUID(int=1)],
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 1),
    datetime.time(1),
    Point(),
    [Point()],
    Decimal(1),
    {1, 2},
    object(),
    b"bytes",
    bytearray(b"bytes"),
    {"a": [b"bytes"]},
    {(1, 2): 3},
    {b"key": 1},
    {uuid.UUID(int=1): 1},
]


@pytest.mark.parametrize("value", ALIKE, ids=ascii)
def test_it_writes_what_the_standard_module_would(value: Any) -> None:
    """NaN, big integers, keys that are no strings, subclasses: read back, they are the same."""
    assert_same_meaning(jsons.dumps(value), value)


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: ascii(value).partition(" at 0x")[0])
def test_it_refuses_what_the_standard_module_refuses(value: Any) -> None:
    """orjson would write dates, dataclasses, UUIDs and enums, and an application would come to depend on it."""
    with pytest.raises(TypeError) as refusal:
        json.dumps(value)
    with pytest.raises(TypeError) as ours:
        jsons.dumps(value)
    assert str(ours.value) == str(refusal.value)


def test_what_contains_itself_is_refused() -> None:
    """ValueError, as the standard module says it."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        jsons.dumps(loop)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_limited_by_the_standard_module_only() -> None:
    """orjson's own limits, 254 when writing and 1024 when reading, are not seen."""
    assert jsons.loads(jsons.dumps(nested(500)).decode()) == nested(500)
    with pytest.raises(RecursionError):
        jsons.dumps(nested(100_000))
    with pytest.raises(RecursionError):
        jsons.loads("[" * 100_000 + "]" * 100_000)


TEXTS = [
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "[1234567890123456789012345678901234567890]",
    '"1234567890123456789012345678901234567890"',
    "123456789012345678901234567890.5",
    "NaN",
    "[Infinity, -Infinity]",
    "1e400",
    "-1e400",
    '"\\ud800"',
    '{"a": 1, "a": 2}',
    "-0",
    "-0.0",
    "1E5",
    " [1 , 2] ",
    '"\\u0000"',
    "[" * 900 + "]" * 900,
    "9" * jsons.MOST_DIGITS,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:30])
def test_it_reads_what_the_standard_module_would(text: str) -> None:
    """Also integers beyond 64 bits, which orjson makes floats of, and what it refuses."""
    assert repr(jsons.loads(text)) == repr(json.loads(text))


NO_JSON = ["", "x", "[1,]", "01", "\ufeff[]", '"\x01"', "-", "\x0b1", "{1:2}", "[", "'a'", "\ud800"]
NO_JSON += ['"\ud800" x' + "1" * 30, "[" * 30]


@pytest.mark.parametrize("text", NO_JSON, ids=ascii)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    """One kind of error, whoever found it."""
    with pytest.raises(ValueError, match=ANYTHING):
        jsons.loads(text)


def test_an_integer_that_would_take_long_to_parse_is_refused() -> None:
    """Time to parse grows with the square of the digits."""
    with pytest.raises(ValueError, match="more than 100 digits"):
        jsons.loads("1" * (jsons.MOST_DIGITS + 1))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62, max_value=2**70),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(categories=["Cs", "L"])),
    st.sampled_from([*ALIKE[:6], *REFUSED[:-4]]),
)
keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(values)
def test_any_value_is_written_or_refused_as_the_standard_module_does(value: Any) -> None:
    """The promise of `dumps`."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as refusal:
        with pytest.raises(type(refusal)):
            jsons.dumps(value)
        return
    assert_same_meaning(jsons.dumps(value), value)


@given(values.filter(lambda value: _standard(value) != b"refused"))
def test_any_text_of_the_standard_module_is_read_as_it_reads_it(value: Any) -> None:
    """The promise of `loads`."""
    text = json.dumps(value)
    assert repr(jsons.loads(text)) == repr(json.loads(text))


@given(st.text(st.sampled_from('[]{}:,"0123456789.eE+- \\untrlfas\ud800é'), max_size=30))
def test_any_text_is_read_or_refused_as_the_standard_module_does(text: str) -> None:
    """Also texts that are nearly JSON."""
    try:
        expected = repr(json.loads(text))
    except ValueError:
        with pytest.raises(ValueError, match=ANYTHING):
            jsons.loads(text)
        return
    assert repr(jsons.loads(text)) == expected


def _standard(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError):
        return b"refused"


def assert_same_meaning(text: bytes, value: Any) -> None:
    ours = json.loads(text, object_pairs_hook=list)
    theirs = json.loads(json.dumps(value), object_pairs_hook=list)
    assert repr(ours) == repr(theirs)
    assert b"\n" not in text
