"""The wire form: what goes in comes out, and whatever else comes in is refused with a reason."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wire import ANSWER, ASK, EMIT, VERSION, Answer, Ask, BadWire, Content, Emit, Envelope, decode, encode, is_from

ORIGIN = b"\x00\xff345678"

texts = st.text(st.characters(), max_size=20)
rooms: st.SearchStrategy[Any] = st.recursive(
    st.one_of(texts, st.binary(max_size=9), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(rooms, st.none(), st.booleans()),
    lambda inner: st.dictionaries(texts, inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
numbers = st.integers(0, 2**64 - 1)
emits = st.builds(
    Emit,
    namespace=texts,
    rooms=st.none() | st.lists(rooms, max_size=3).map(tuple),
    text=st.binary(max_size=50),
    binaries=st.lists(st.binary(max_size=9), max_size=3).map(tuple),
    skip=st.lists(texts, max_size=3).map(tuple),
    except_rooms=st.lists(rooms, max_size=3).map(tuple),
    volatile=st.booleans(),
)
asks = st.builds(Ask, operation=texts, arguments=st.lists(values).map(tuple), number=numbers, reply_to=texts)
answers = st.builds(Answer, number=numbers, name=texts, value=values, error=texts)


@given(origin=st.binary(min_size=8, max_size=8), number=numbers, sent_ms=numbers, content=emits | asks | answers)
def test_what_is_encoded_is_what_is_decoded(origin: bytes, number: int, sent_ms: int, content: Content) -> None:
    """Every kind, every field, text apart from bytes."""
    payload = encode(origin, number, sent_ms, content)
    assert decode(payload) == Envelope(origin, number, sent_ms, content)
    assert is_from(payload, origin)
    assert not is_from(payload, bytes([origin[0] ^ 1]) + origin[1:])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_reason(payload: bytes) -> None:
    """Nothing but BadWire is ever raised."""
    with suppress(BadWire):
        decode(payload)


@given(content=emits | asks | answers, data=st.data())
def test_a_message_that_was_bent_is_a_message_or_a_reason(content: Content, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in."""
    payload = bytearray(encode(ORIGIN, 1, 2, content))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        payload[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with suppress(BadWire):
        decode(bytes(payload))


@given(fields=st.lists(values, max_size=9), kind=st.sampled_from([EMIT, ASK, ANSWER]))
def test_fields_of_other_types_are_refused_or_of_the_right_ones(fields: list[Any], kind: int) -> None:
    """What is decoded can be used without looking again."""
    try:
        content = decode(msgpack.packb((VERSION, kind, ORIGIN, 1, 2, *fields), unicode_errors="surrogatepass")).content
    except BadWire:
        return
    if isinstance(content, Emit):
        assert isinstance(content.namespace, str)
        assert all(isinstance(each, bytes) for each in content.binaries)
        hash((content.rooms, content.except_rooms, content.skip))
        assert content.message.packets
    elif isinstance(content, Ask):
        assert isinstance(content.operation, str)
        assert isinstance(content.arguments, tuple)


def bent(*fields: Any) -> bytes:
    return bytes(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (b"\x91" * 100_000, "no msgpack"),
        (b'{"method": "emit"}', "no msgpack"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"2[]") + b"x", "no msgpack"),
        (msgpack.packb({(1,): 2}, strict_types=False), "no message"),
        (b"\x81\x81\x01\x01\x01", "no msgpack"),
        (b"\x07", "no message: 7"),
        (bent(1, 1, ORIGIN, 1), "no message"),
        (bent(2, 1, ORIGIN, 1, 2), "version 2, and we know 1"),
        (bent("1", 1, ORIGIN, 1, 2), "version '1'"),
        (bent(1, 9, ORIGIN, 1, 2), "kind 9"),
        (bent(1, (1,), ORIGIN, 1, 2), r"kind \(1,\)"),
        (bent(1, 1, b"short", 1, 2), "no origin, number and time"),
        (bent(1, 1, "12345678", 1, 2), "no origin"),
        (bent(1, 1, ORIGIN, -1, 2), "no origin"),
        (bent(1, 1, ORIGIN, 1, 2.5), "no origin"),
        (bent(1, 1, ORIGIN, 1, 2), "an emit of 0 fields"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"", (), (), (), False, 1), "an emit of 8 fields"),
        (bent(1, 1, ORIGIN, 1, 2, b"/", None, b"2[]"), "an emit to"),
        (bent(1, 1, ORIGIN, 1, 2, "/", "lobby", b"2[]"), "an emit to"),
        (bent(1, 1, ORIGIN, 1, 2, "/", ({},), b"2[]"), "an emit to"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, "2[]"), "an emit of '2"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, None), "an emit of None"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"2[]", ("no bytes",)), "an emit with"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"2[]", (), (1,)), "an emit with"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"2[]", (), (), (None,)), "an emit with"),
        (bent(1, 1, ORIGIN, 1, 2, "/", None, b"2[]", (), (), (), 1), "an emit with"),
        (bent(1, 2, ORIGIN, 1, 2, "fetch"), "a question"),
        (bent(1, 2, ORIGIN, 1, 2, "fetch", (), -1, "n3000"), "a question"),
        (bent(1, 3, ORIGIN, 1, 2, "n3000"), "an answer"),
        (bent(1, 1, ORIGIN, 1, 2, "x" * 500, 1, b""), r"\.\.\.$"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, reason: str) -> None:
    """In one line, however long the nonsense is."""
    with pytest.raises(BadWire, match=reason) as caught:
        decode(payload)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("room", [object(), {1: object()}, 2**64, {"a", "b"}])
def test_a_room_that_cannot_travel_is_named_when_it_is_sent(room: Any) -> None:
    """On the node that emits, where somebody can do something about it."""
    with pytest.raises(TypeError, match="cannot go to other nodes"):
        encode(ORIGIN, 1, 2, Emit("/", (room,), b"2[]"))


def test_the_common_emit_is_small_and_its_bytes_are_those_that_clients_get() -> None:
    """Encoded once: the text is on the wire as it is."""
    text = b'2["message",{"text":"hello"}]'
    payload = encode(ORIGIN, 1, 1_700_000_000_000, Emit("/", ("lobby",), text))
    assert text in payload
    assert len(payload) < len(text) + 40
    content = decode(payload).content
    assert isinstance(content, Emit)
    assert content.message.text == text


def test_the_form_is_the_one_that_other_versions_read() -> None:
    """Nodes of two releases share one cluster during a deploy: these bytes may not change within a version."""
    payload = encode(ORIGIN, 7, 1000, Emit("/", ("a",), b"2[]", (b"\x01",), ("s",), (1,), True))
    expected = (
        b"\x9c\x01\x01\xc4\x08"
        + ORIGIN
        + b"\x07\xcd\x03\xe8\xa1/\x91\xa1a\xc4\x032[]\x91\xc4\x01\x01\x91\xa1s\x91\x01\xc3"
    )
    assert payload == expected
    assert encode(ORIGIN, 0, 0, Ask("fetch", (1,), 5, "n1"))[13:] == b"\x00\x00\xa5fetch\x91\x01\x05\xa2n1"
    assert encode(ORIGIN, 0, 0, Answer(5, "n1", None, "no"))[13:] == b"\x00\x00\x05\xa2n1\xc0\xa2no"


def test_numbers_as_large_as_they_get_fit() -> None:
    """An unsigned 64-bit counter never wraps in practice."""
    assert decode(encode(ORIGIN, 2**64 - 1, 0, Ask("x"))).number == struct.unpack("!Q", b"\xff" * 8)[0]
