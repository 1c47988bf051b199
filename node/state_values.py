"""Values, names and changes of the shared state, and what can be wrong with them.  Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from cluster.errors import FlotillaError

MOST_KEY_BYTES = 512
MOST_FIELD_BYTES = 512
MOST_VALUE_BYTES = 256 * 1024
MOST_FIELDS = 10_000
"""Fields of one hash: all of them are read at once."""
MOST_TTL_S = 366 * 86400

FORMAT = 1
"""The first element of what is published; other numbers are other versions of ours."""

_BYTES = b"\x00"
"""What bytes are stored behind: JSON never begins with it."""

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


class StateError(FlotillaError):
    """Base of what the shared state raises."""


class StateAway(StateError):
    """Redis did not do it in time, or at all.  What was asked for may have been done nevertheless."""


class BadState(StateError, ValueError):
    """A name, a value or a time that cannot be kept."""


class WrongKind(StateError, TypeError):
    """The key holds something else: a hash where a value is asked for, a text where something is counted."""


class Contended(StateError):
    """Others changed the value each time before an update was done."""


class Kind(StrEnum):
    """What happened to a key."""

    SET = "set"
    DELETED = "deleted"
    MISSED = "missed"
    """Changes may have been missed: read again what matters."""


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of `key`, or of the `field` of a hash; `value` is the new one, None if there is none.

    If `kind` is MISSED, `key` is the key or prefix that is watched.
    """

    kind: Kind
    key: str
    field: str | None = None
    value: Any = None


def checked_key(key: object) -> str:
    """Return `key`.  Raises BadState."""
    return _checked_name("key", key, MOST_KEY_BYTES)


def checked_field(field: object) -> str:
    """Return the name of a hash's field.  Raises BadState."""
    return _checked_name("field", field, MOST_FIELD_BYTES)


def _checked_name(what: str, name: object, most: int) -> str:
    if not isinstance(name, str):
        raise BadState(f"{what} must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadState(f"{what} {name!r} cannot be encoded as UTF-8") from None
    if not 1 <= size <= most:
        raise BadState(f"{what} must have 1 to {most} bytes, not {size}")
    return name


def checked_step(by: object) -> int:
    """Return by how much something is counted up.  Raises BadState."""
    if isinstance(by, bool) or not isinstance(by, int) or not -(2**63) < by < 2**63:
        raise BadState(f"a counter changes by a whole number of at most 63 bits, not by {by!r}")
    return by


def ttl_ms(ttl_s: object) -> int | None:
    """Return a lifetime in whole milliseconds, None for one without end.  Raises BadState."""
    if ttl_s is None:
        return None
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0.001 <= ttl_s <= MOST_TTL_S:
        raise BadState(f"ttl_s must be from 0.001 to {MOST_TTL_S} seconds, not {ttl_s!r}")
    return round(ttl_s * 1000)


def encoded(value: Any) -> bytes:
    """Return `value`, bytes or anything that JSON can hold, as it is stored.  Raises BadState."""
    if value is None:
        raise BadState("None is what a key without a value has: delete the key instead")
    raw = _BYTES + bytes(value) if isinstance(value, bytes | bytearray | memoryview) else _json(value)
    if len(raw) > MOST_VALUE_BYTES:
        raise BadState(f"a value has at most {MOST_VALUE_BYTES} bytes, not {len(raw)}")
    return raw


def _json(value: Any) -> bytes:
    try:
        raw = orjson.dumps(value, option=_STRICT)
        if b"null" in raw:
            # orjson writes null for NaN and the infinities, which JSON cannot hold.
            json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise BadState(f"a value must be bytes or JSON: {exc}") from None
    return raw


def decoded(key: str, raw: bytes) -> Any:
    """Return the value behind `raw`.  Raises WrongKind: somebody else wrote it."""
    if raw[:1] == _BYTES:
        return raw[1:]
    try:
        return orjson.loads(raw)
    except ValueError:
        raise WrongKind(f"{key!r} holds what is neither bytes nor JSON of ours") from None


def head_of(kind: Kind, field: str | None = None) -> bytes:
    """Return what is published of a change, before the new value as it is stored."""
    return orjson.dumps([FORMAT, kind, field]) + b"\n"


def change_from(key: str, raw: bytes) -> StateChange:
    """Read what was published of a change of `key`.  Raises BadState or WrongKind."""
    head, _, value = raw.partition(b"\n")
    try:
        number, kind, field = orjson.loads(head)
        if number != FORMAT or kind not in _KINDS or not isinstance(field, str | None):
            raise ValueError("another format")
        return StateChange(Kind(kind), key, field, decoded(key, value) if value else None)
    except (ValueError, TypeError) as exc:
        if isinstance(exc, StateError):
            raise
        raise BadState(f"not a change of the shared state: {exc}") from None
