"""What a client sends, right and wrong, however it is cut."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.deflate import deflate
from node.reader import NO_CODE, Close, Event, HalfRead, Ping, ProtocolError, Reader
from tests.support.websockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    client_frame,
    close,
    text,
)

MOST = 100_000


def read(*pieces: bytes, inflates: bool = False, most: int = MOST) -> list[Event]:
    """Return the events in `pieces`, each of which is received by itself."""
    reader, events = Reader(most, inflates=inflates), []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next()) is not None:
            events.append(event)
    return events


def refused(*pieces: bytes, inflates: bool = False, most: int = MOST) -> int:
    """Return the close code with which `pieces` are refused."""
    with pytest.raises(ProtocolError) as caught:
        read(*pieces, inflates=inflates, most=most)
    assert caught.value.reason
    return caught.value.code


_masks = st.binary(min_size=4, max_size=4)
_controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def _messages(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Return the bytes of a message in any number of frames, with control frames in between, and its events."""
    is_text = draw(st.booleans())
    message: str | bytes = draw(st.text(max_size=300)) if is_text else draw(st.binary(max_size=300))
    message = message * draw(st.sampled_from([1, 1, 1, 40]))
    payload = message.encode() if isinstance(message, str) else message
    compressed = draw(st.booleans())
    if compressed:
        payload = deflate(payload)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    ends = [*cuts, len(payload)]
    data, events, at = b"", list[Event](), 0
    for number, end in enumerate(ends):
        for opcode, said in draw(st.lists(_controls, max_size=1)):
            data += client_frame(FIN | opcode, said, mask=draw(_masks))
            events += [Ping(said)] if opcode == PING else []
        first = CONTINUATION if number else TEXT if is_text else BINARY
        first |= FIN if number == len(ends) - 1 else 0
        first |= RSV1 if compressed and not number else 0
        data += client_frame(first, payload[at:end], mask=draw(_masks))
        at = end
    return data, [*events, message]


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(_messages(), min_size=1, max_size=4), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_cut_of_any_frames_gives_the_same_messages(sent: list[tuple[bytes, list[Event]]], cuts: list[int]) -> None:
    """Whole, and as often as the network likes."""
    data = b"".join(part for part, _ in sent)
    assert read(*_cut(data, cuts), inflates=True) == [event for _, events in sent for event in events]


@given(_messages())
def test_one_byte_at_a_time_gives_the_same_messages(sent: tuple[bytes, list[Event]]) -> None:
    """The smallest cut there is."""
    data, events = sent
    assert read(*(data[at : at + 1] for at in range(len(data))), inflates=True) == events


@given(st.lists(_messages(), min_size=1, max_size=3), st.lists(st.integers(0, 1 << 16), max_size=6))
def test_what_a_reader_holds_can_go_on_in_another(sent: list[tuple[bytes, list[Event]]], cuts: list[int]) -> None:
    """At any byte, with messages that were not asked for yet."""
    data = b"".join(part for part, _ in sent)
    events, half = list[Event](), HalfRead()
    for piece in _cut(data, cuts):
        reader = Reader(MOST, inflates=True, half=half)
        reader.feed(piece)
        if (event := reader.next()) is not None:  # only one: the others move on unread
            events.append(event)
        half = reader.half_read()
    reader = Reader(MOST, inflates=True, half=half)
    while (event := reader.next()) is not None:
        events.append(event)
    assert events == [event for _, expected in sent for event in expected]
    assert reader.is_idle


@given(st.binary(max_size=40))
def test_no_bytes_at_all_raise_anything_else(data: bytes) -> None:
    """Events, or one kind of error."""
    with suppress(ProtocolError):
        read(data, inflates=True)


@given(st.binary(max_size=60), st.booleans())
def test_text_is_refused_exactly_when_it_is_not_utf_8(payload: bytes, is_cut: bool) -> None:
    """As Python's own decoder has it."""
    pieces = [client_frame(TEXT, payload[:7]), client_frame(FIN, payload[7:])] if is_cut else [text(payload)]
    try:
        expected = payload.decode()
    except UnicodeDecodeError:
        assert refused(*pieces) == 1007
    else:
        assert read(*pieces) == [expected]


@pytest.mark.parametrize("first", [FIN | opcode for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)])
def test_reserved_opcodes_are_refused(first: int) -> None:
    """RFC 6455 5.2."""
    assert refused(client_frame(first, b"x")) == 1002


@pytest.mark.parametrize("bits", range(0x10, 0x80, 0x10))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG])
@pytest.mark.parametrize("inflates", [False, True])
def test_reserved_bits_are_refused(bits: int, opcode: int, inflates: bool) -> None:
    """RFC 6455 5.2; RSV1 is allowed on the first frame of a message where compression was agreed on (RFC 7692 6)."""
    if inflates and bits == RSV1 and opcode in (TEXT, BINARY):
        assert read(client_frame(FIN | bits | opcode, deflate(b"x")), inflates=True) in (["x"], [b"x"])
        return
    before = [client_frame(TEXT, b"x")] if opcode == CONTINUATION else []
    assert refused(*before, client_frame(FIN | bits | opcode), inflates=inflates) == 1002


@pytest.mark.parametrize(
    "pieces",
    [
        [client_frame(FIN | TEXT, b"x", mask=None)],
        [client_frame(FIN | PING, b"", mask=None)],
        [client_frame(FIN | CLOSE, b"", mask=None)],
        [client_frame(FIN | BINARY, b"x" * 200, mask=None)],
    ],
)
def test_frames_without_a_mask_are_refused(pieces: list[bytes]) -> None:
    """RFC 6455 5.1."""
    assert refused(*pieces) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_are_short_and_whole(opcode: int) -> None:
    """RFC 6455 5.5."""
    assert refused(client_frame(FIN | opcode, b"x" * 126)) == 1002
    assert refused(client_frame(FIN | opcode, b"x" * 70_000)) == 1002
    assert refused(client_frame(opcode, b"")) == 1002


@pytest.mark.parametrize(
    "pieces",
    [
        [client_frame(FIN | CONTINUATION, b"x")],
        [client_frame(CONTINUATION, b"x")],
        [client_frame(TEXT, b"x"), client_frame(FIN | TEXT, b"x")],
        [client_frame(TEXT, b""), client_frame(FIN | TEXT, b"x")],
        [client_frame(TEXT, b"x"), client_frame(BINARY, b"x")],
        [text("x"), client_frame(FIN | CONTINUATION, b"x")],
        [client_frame(TEXT, b"x"), client_frame(FIN, b"y"), client_frame(FIN, b"z")],
    ],
)
def test_messages_are_not_mixed(pieces: list[bytes]) -> None:
    """RFC 6455 5.4."""
    assert refused(*pieces) == 1002


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_that_may_be_sent_are_taken(code: int) -> None:
    """RFC 6455 7.4, and IANA's registry."""
    assert read(close(code, b"why")) == [Close(code, "why")]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_other_close_codes_are_refused(code: int) -> None:
    """RFC 6455 7.4.1 and 7.4.2."""
    assert refused(close(code)) == 1002


def test_a_close_frame_without_a_code_has_none() -> None:
    """And one with half a code is refused, as is a reason that is not UTF-8 (RFC 6455 5.5.1)."""
    assert read(close()) == [Close(NO_CODE, "")]
    assert refused(client_frame(FIN | CLOSE, b"\x03")) == 1002
    assert refused(close(1000, b"\xff")) == 1007


def test_lengths_take_as_few_bytes_as_they_can() -> None:
    """RFC 6455 5.2."""
    assert refused(struct.pack("!BBH", 0x82, 0xFE, 125) + bytes(4)) == 1002
    assert refused(struct.pack("!BBQ", 0x82, 0xFF, 65535) + bytes(4)) == 1002
    assert refused(struct.pack("!BBQ", 0x82, 0xFF, 1 << 63) + bytes(4)) == 1002


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, MOST])
def test_every_form_of_a_length_is_read(size: int) -> None:
    """RFC 6455 5.2, up to the limit."""
    mask = b"\x01\x80\xff\x10"
    assert read(client_frame(FIN | BINARY, b"x" * size, mask=mask)) == [b"x" * size]
    assert read(client_frame(FIN | TEXT, b"x" * size, mask=mask)) == ["x" * size]


def test_a_message_over_the_limit_is_refused_before_it_comes() -> None:
    """By its header alone; fragments count together, and so does what they inflate to."""
    assert refused(client_frame(FIN | BINARY, b"x" * 1001)[:10], most=1000) == 1009
    assert read(client_frame(FIN | BINARY, b"x" * 1000), most=1000)
    halves = [client_frame(BINARY, b"x" * 500), client_frame(FIN, b"x" * 501)[:8]]
    assert refused(*halves, most=1000) == 1009
    bomb = deflate(bytes(1001))
    assert refused(client_frame(FIN | RSV1 | BINARY, bomb), inflates=True, most=1000) == 1009
    assert read(client_frame(FIN | RSV1 | BINARY, deflate(bytes(1000))), inflates=True, most=1000) == [bytes(1000)]


def test_a_bomb_is_refused_while_it_inflates() -> None:
    """It never takes more memory than the limit."""
    bomb = client_frame(FIN | RSV1 | BINARY, deflate(bytes(50_000_000)))
    assert len(bomb) < MOST * 10
    tracemalloc.start()
    try:
        assert refused(bomb, inflates=True, most=1_000_000) == 1009
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head",
    [
        client_frame(FIN | 3, b"x")[:1],
        client_frame(FIN | CONTINUATION, b"x")[:1],
        client_frame(FIN | TEXT | RSV1, b"x")[:1],
        client_frame(FIN | TEXT, b"x" * 9, mask=None)[:2],
        client_frame(FIN | PING, b"x" * 200)[:2],
    ],
)
def test_what_is_wrong_is_refused_at_once(head: bytes) -> None:
    """Not when the rest is there, which may be never."""
    assert refused(head) == 1002


def test_text_is_refused_at_its_first_wrong_byte() -> None:
    """Within a frame and between frames; a character cut in two is not wrong yet."""
    start = client_frame(TEXT, "κόσμε".encode() + b"\xf4")
    assert read(start) == []
    assert refused(start, client_frame(FIN, b"\x90" + b"x" * 50)[:7]) == 1007
    assert refused(client_frame(FIN | TEXT, b"ab\xed\xa0\x80" + b"x" * 900)[:20]) == 1007
    assert refused(start, client_frame(FIN, b"")) == 1007


@pytest.mark.parametrize("first", [FIN | RSV1 | TEXT, FIN | RSV1 | BINARY])
def test_what_cannot_be_inflated_is_refused(first: int) -> None:
    """And so is text that inflates to what is not UTF-8."""
    assert refused(client_frame(first, b"\xff\xff\xff"), inflates=True) == 1007
    assert refused(client_frame(FIN | RSV1 | TEXT, deflate(b"\xff")), inflates=True) == 1007


def test_nothing_is_kept_between_messages() -> None:
    """So that a channel needs no reader while its client is quiet."""
    reader = Reader(MOST)
    reader.feed(text("a") + text("b")[:3])
    assert reader.next() == "a"
    assert reader.next() is None
    assert not reader.is_idle
    reader.feed(text("b")[3:])
    assert (reader.next(), reader.is_idle, reader.half_read()) == ("b", True, HalfRead())
