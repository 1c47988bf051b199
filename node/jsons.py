"""JSON with exactly the standard module's semantics, at orjson's speed wherever the two agree.  Pure.

orjson differs in silence where it matters: NaN becomes null, an integer beyond 64 bits is read as a float, an enum or
a UUID is written though `json` refuses it.  So what it wrote is checked, cheaply, and whatever it refuses or got
differently goes through `json`.  What we promise: `loads` returns what `json.loads` does; `dumps` writes a text that
reads back as `json.dumps`'s does, or raises as that does.  The texts differ where JSON leaves a choice: we write no
spaces, other than ASCII as UTF-8, and `1e-7` for `1e-07`.
"""

from __future__ import annotations

import json
from types import NoneType
from typing import Any, Protocol

import orjson

MOST_DIGITS = 100
"""Of an integer that a client sends; longer ones are refused (as python-engineio does): parsing is quadratic."""

_AS_JSON = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_ALIKE = frozenset({str, int, bool, NoneType})
"""Exact types that orjson, if it takes them at all, writes as `json` does."""

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_MAYBE_BEYOND_64_BITS = b"0" * 19


class Json(Protocol):
    """A JSON module as users may give one: compatible with the standard library's."""

    def dumps(self, value: Any, **options: Any) -> str: ...

    def loads(self, text: str) -> Any: ...


def dumps(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8.

    Raises TypeError for what JSON cannot hold (bytes among it), ValueError for what contains itself, RecursionError
    for what is nested too deeply.
    """
    try:
        text = orjson.dumps(value, option=_AS_JSON)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
    # Reading back shows NaN (null), enums and UUIDs (what they hold); tuples too, which merely costs time.
    if type(value) is list:
        for item in value:
            if type(item) not in _ALIKE:
                break
        else:
            return text
    if orjson.loads(text) == value:
        return text
    return json.dumps(value, separators=(",", ":")).encode()


def loads(text: str) -> Any:
    """Return what the JSON `text` says.

    Raises ValueError if it is none or has an integer of more than MOST_DIGITS, RecursionError if it is nested too
    deeply.
    """
    if len(text) > len(_MAYBE_BEYOND_64_BITS):
        try:
            if _MAYBE_BEYOND_64_BITS in text.encode().translate(_DIGITS_TO_ZERO):
                return _standard_loads(text)
        except UnicodeEncodeError:
            return _standard_loads(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # NaN, Infinity, halves of surrogate pairs: `json` takes them.  The rest it refuses as well.
        return _standard_loads(text)


def _standard_loads(text: str) -> Any:
    return json.loads(text, parse_int=_bounded_int)


def _bounded_int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of more than {MOST_DIGITS} digits")
    return int(digits)
