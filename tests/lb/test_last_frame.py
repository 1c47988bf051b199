"""The close code at the end of what was read: read off where there is one, and never made up."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.last_frame import close_code
from node.reader import Reader
from tests.support.websockets import CLOSE, FIN, PING, PONG, RSV1, client_frame

MASKS = st.binary(min_size=4, max_size=4)
CODES = st.sampled_from([1000, 1001, 1003, 1007, 1013, 3000, 4008, 4401, 4999])
REASONS = st.text(max_size=30).filter(lambda text: len(text.encode()) <= 123)
SIZES = st.sampled_from([0, 1, 125, 126, 127, 300])


@st.composite
def before(draw: st.DrawFn, mask: bytes | None) -> bytes:
    """Return whole frames that may come before a close frame: data, in pieces or compressed too, pings and pongs."""
    firsts = st.sampled_from([0x0, 0x1, 0x2, FIN | 0x0, FIN | 0x1, FIN | 0x2, FIN | RSV1 | 0x1])
    data = [client_frame(draw(firsts), bytes(draw(SIZES)), mask=mask) for _ in range(draw(st.integers(0, 3)))]
    control = [client_frame(FIN | draw(st.sampled_from([PING, PONG])), b"p", mask=mask)]
    return b"".join(data + control * draw(st.integers(0, 1)))


@given(st.data(), st.booleans(), CODES, REASONS)
def test_a_close_frame_behind_whole_frames_or_alone_is_read(
    data: st.DataObject, masked: bool, code: int, reason: str
) -> None:
    """A client's under its mask, a node's as it is; of any sizes."""
    mask = data.draw(MASKS) if masked else None
    last = client_frame(FIN | CLOSE, struct.pack("!H", code) + reason.encode(), mask=mask)
    read = data.draw(before(mask)) + last
    assert close_code(read, masked=masked) == code
    assert close_code(read, masked=not masked) is None, "the other side's bytes"
    assert close_code(read + b"\0", masked=masked) is None, "something follows"
    assert close_code(read[:-1], masked=masked) is None, "it is cut"


@given(st.booleans(), MASKS)
def test_one_without_a_code_is_1005(masked: bool, mask: bytes) -> None:
    """RFC 6455 7.1.5."""
    assert close_code(client_frame(FIN | CLOSE, b"", mask=mask if masked else None), masked=masked) == 1005


@given(st.binary(max_size=300), st.booleans())
def test_bytes_of_any_kind_are_a_code_that_may_be_sent_or_nothing(read: bytes, masked: bool) -> None:
    """And never an exception."""
    code = close_code(read, masked=masked)
    assert code is None or code == 1005 or 1000 <= code <= 1014 or 3000 <= code <= 4999


@given(st.binary(max_size=60), MASKS, CODES)
def test_what_a_node_would_not_take_for_a_close_frame_is_none_here(rest: bytes, mask: bytes, code: int) -> None:
    """The node's own reader finds the same close frame, or an error before it."""
    read = rest + client_frame(FIN | CLOSE, struct.pack("!H", code), mask=mask)
    if close_code(read, masked=True) is not None:
        reader = Reader(1000, inflates=True)
        reader.feed(read)
        assert read_to_the_end(reader) in (code, "an error before it")


def read_to_the_end(reader: Reader) -> int | str | None:
    from node.reader import Close, ProtocolError

    try:
        while (event := reader.next()) is not None:
            if isinstance(event, Close):
                return event.code
    except ProtocolError:
        return "an error before it"
    return None


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"\x88",
        b"\x88\x01\x03",
        b"\x88\x02\x03\xed",  # 1005 is never sent
        b"\x88\x02\x00\x00",
        b"\x88\x02\x13\x88",  # 5000
        b"\x88\x03\x03\xe8\xff",  # a reason that is not UTF-8
        b"\x08\x02\x03\xe8",  # a fragment
        b"\xc8\x02\x03\xe8",  # a reserved bit
        b"\x88\x7e\x00\x02\x03\xe8",  # a long length
        b"\x81\x7e\x00\x01a\x88\x02\x03\xe8",
        b"\x81\x7f" + bytes(7) + b"\x01a\x88\x02\x03\xe8",
        b"\x83\x00\x88\x02\x03\xe8",  # an opcode that is reserved
        b"\x81\x05a\x88\x02\x03\xe8",  # the payload of another frame, though it looks like one
        b"llo\x88\x02\x03\xe8",  # begins inside another frame
        b"\x88\x02\x03\xe8\x88\x02\x03\xe8",  # nothing follows a close frame
    ],
)
def test_what_only_looks_like_one_tells_nothing(read: bytes) -> None:
    """No code is better than a guess."""
    assert close_code(read, masked=False) is None
