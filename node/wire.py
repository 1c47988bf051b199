"""What nodes tell each other, as bytes.  Pure.

One message is one msgpack array: `[version, kind, origin, number, sent_ms, ...]`, then what that kind holds.  An emit
carries the very text and binaries that clients will get (node/message.py), encoded once by the node that emits.

The first fields have a fixed size, so that a node knows its own messages without decoding them (`is_from`).  msgpack
tells text from bytes, and lists arrive as tuples: a value that must keep its shape travels as JSON.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from cluster.errors import FlotillaError
from node.message import Message
from node.rooms import Room

VERSION = 1
ORIGIN_BYTES = 8
MOST_DEPTH = 100
"""Of lists and maps in each other, in questions and answers.  msgpack follows ten times as far; Python does not."""

_ORIGIN_AT = 5
_NUMBERS = range(2**64)
_MOST_SHOWN = 60

EMIT, ASK, ANSWER = 1, 2, 3


class BadWire(FlotillaError):
    """Bytes that are no message, or one of a version that we do not know.  It is dropped, and counted."""


class Emit(NamedTuple):
    """An event for clients: those in `rooms` (None: all of the namespace), in none of `except_rooms`, not in `skip`."""

    namespace: str
    rooms: tuple[Room, ...] | None
    text: bytes | None
    binaries: tuple[bytes, ...] = ()
    skip: tuple[str, ...] = ()
    except_rooms: tuple[Room, ...] = ()
    volatile: bool = False

    @property
    def message(self) -> Message:
        """What each of these clients gets."""
        return Message(self.text, self.binaries)


class Ask(NamedTuple):
    """Asks a node to do something.  It answers to the node (or emitter) `reply_to`, unless `number` is 0."""

    operation: str
    arguments: tuple[Any, ...] = ()
    number: int = 0
    reply_to: str = ""


class Answer(NamedTuple):
    """What the node `name` answers to the Ask with that `number`; `error` says why there is no `value`."""

    number: int
    name: str
    value: Any = None
    error: str = ""


Content = Emit | Ask | Answer


class Envelope(NamedTuple):
    """A message with its origin: who sent it (an incarnation of a node), as its how manieth, and when.

    `sent_ms` is the sender's clock, in milliseconds of the epoch.
    """

    origin: bytes
    number: int
    sent_ms: int
    content: Content


def encode(origin: bytes, number: int, sent_ms: int, content: Content) -> bytes:
    """Return `content` as it goes over the bus.  Raises TypeError for a value that cannot travel."""
    assert len(origin) == ORIGIN_BYTES
    if type(content) is Emit:
        fields: tuple[Any, ...] = content if content[3:] != _PLAIN else content[:3]
        kind = EMIT
    else:
        kind, fields = (ASK if type(content) is Ask else ANSWER), content
        if not _is_shallow(content):
            raise TypeError(f"this cannot go to other nodes: it is nested more than {MOST_DEPTH} deep")
    try:
        return msgpack.packb((VERSION, kind, origin, number, sent_ms, *fields), unicode_errors="surrogatepass")  # type: ignore[no-any-return]
    except (TypeError, OverflowError, ValueError) as exc:
        raise TypeError(f"this cannot go to other nodes: {exc}") from None


_DEPTH_AROUND = 10
"""Left for the lists in which a value stands."""

_PLAIN = Emit("", None, None)[3:]


def can_travel(value: Any) -> bool:
    """Tell whether `value` may stand in an answer."""
    try:
        msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError):
        return False
    return _is_shallow(value, MOST_DEPTH - _DEPTH_AROUND)


def is_from(payload: bytes, origin: bytes) -> bool:
    """Return whether `payload` is a message of that origin, without reading the rest of it."""
    return payload.startswith(origin, _ORIGIN_AT)


def decode(payload: bytes) -> Envelope:
    """Read a message.  Raises BadWire, and nothing else, whatever the bytes are."""
    try:
        fields = msgpack.unpackb(payload, use_list=False, strict_map_key=False, unicode_errors="surrogatepass")
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise BadWire(f"no msgpack: {str(exc) or type(exc).__name__}") from None
    try:
        return _envelope_in(fields)
    except RecursionError:
        # msgpack follows to a depth of 1,024 whatever Python's limit is; who looks into the fields does not.
        raise BadWire("nested too deeply") from None


def _envelope_in(fields: Any) -> Envelope:
    if type(fields) is not tuple or len(fields) < 5:
        raise BadWire(f"no message: {_shown(fields)}")
    version, kind, origin, number, sent_ms, *rest = fields
    if version != VERSION:
        raise BadWire(f"version {_shown(version)}, and we know {VERSION}")
    if type(origin) is not bytes or len(origin) != ORIGIN_BYTES or not _is_number(number) or not _is_number(sent_ms):
        raise BadWire(f"no origin, number and time: {_shown(fields[2:5])}")
    read = _READERS.get(kind) if type(kind) is int else None
    if read is None:
        raise BadWire(f"a message of kind {_shown(kind)}, which we do not know")
    return Envelope(origin, number, sent_ms, read(rest))


def as_lists(value: Any) -> Any:
    """Return a value that came over the wire with lists where they were: it has tuples."""
    if isinstance(value, tuple):
        return [as_lists(each) for each in value]
    if isinstance(value, dict):
        return {key: as_lists(each) for key, each in value.items()}
    return value


def _emit(fields: list[Any]) -> Emit:
    if not 3 <= len(fields) <= len(Emit._fields):
        raise BadWire(f"an emit of {len(fields)} fields")
    emit = Emit(*fields)
    if type(emit.namespace) is not str or not (emit.rooms is None or _are_rooms(emit.rooms)):
        raise BadWire(f"an emit to {_shown(fields[:2])}")
    if type(emit.text) is not bytes and (emit.text is not None or not emit.binaries):
        raise BadWire(f"an emit of {_shown(emit.text)}")
    if len(fields) > 3 and not (
        _are(bytes, emit.binaries)
        and _are(str, emit.skip)
        and _are_rooms(emit.except_rooms)
        and type(emit.volatile) is bool
    ):
        raise BadWire(f"an emit with {_shown(fields[3:])}")
    return emit


def _ask(fields: list[Any]) -> Ask:
    match fields:
        case [str(operation), tuple(arguments), number, str(reply_to)] if _is_number(number) and _is_shallow(fields):
            return Ask(operation, arguments, number, reply_to)
    raise BadWire(f"a question {_shown(fields)}")


def _answer(fields: list[Any]) -> Answer:
    match fields:
        case [number, str(name), value, str(error)] if _is_number(number) and _is_shallow(fields):
            return Answer(number, name, value, error)
    raise BadWire(f"an answer {_shown(fields)}")


_READERS: dict[int, Any] = {EMIT: _emit, ASK: _ask, ANSWER: _answer}


def _is_shallow(value: object, depth: int = MOST_DEPTH) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return True
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in value)


def _is_number(value: object) -> bool:
    return type(value) is int and value in _NUMBERS


def _are(kind: type, values: object) -> bool:
    return type(values) is tuple and all(type(each) is kind for each in values)


def _are_rooms(values: object) -> bool:
    return type(values) is tuple and all(map(_is_room, values))


def _is_room(value: object) -> bool:
    return type(value) in _ROOM_TYPES or _are_rooms(value)


_ROOM_TYPES = frozenset({str, bytes, int, float, bool})


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
