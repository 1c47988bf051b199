"""Frames as bytes, against RFC 6455."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frames import (
    BINARY,
    FIN,
    TEXT,
    accept_key,
    client_frame,
    echoed,
    masked_frame,
    read_frame,
    server_frame,
)


def test_the_accept_key_is_the_one_of_the_rfc() -> None:
    """RFC 6455 1.3 gives this pair."""
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_masked_frame_of_the_rfc_is_read() -> None:
    """RFC 6455 5.7: a masked text message "Hello"."""
    frame = read_frame(bytes.fromhex("818537fa213d7f9f4d5158"))
    assert frame is not None
    assert (frame.first, frame.opcode, frame.payload, frame.size) == (0x81, 1, b"Hello", 11)


def test_server_frames_of_the_rfc_are_written() -> None:
    """RFC 6455 5.7: "Hello" in one frame, 256 bytes and 64 KiB of binary."""
    assert server_frame(0x81, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert echoed(bytes(256))[:4] == bytes.fromhex("827e0100")
    assert echoed(bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
def test_a_client_frame_reads_as_what_was_sent(size: int) -> None:
    """At every boundary of the three length fields."""
    data = client_frame(b"x" * size)
    frame = read_frame(b"before" + data + b"behind", len(b"before"))
    assert frame is not None
    assert (frame.opcode, frame.payload, frame.size) == (BINARY, b"x" * size, len(data))


@given(payload=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4))
def test_any_mask_is_undone(payload: bytes, key: bytes) -> None:
    """Other load generators mask with real keys."""
    masked = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    head = bytes((0x82, 0x80 | len(payload))) if len(payload) < 126 else b"\x82\xfe" + len(payload).to_bytes(2, "big")
    frame = read_frame(head + key + masked)
    assert frame is not None
    assert frame.payload == payload


@given(payload=st.binary(max_size=70_000), key=st.binary(min_size=4, max_size=4))
def test_a_masked_frame_reads_as_what_was_sent(payload: bytes, key: bytes) -> None:
    """And on the wire it is masked."""
    data = masked_frame(FIN | TEXT, payload, key)
    frame = read_frame(data)
    assert frame is not None
    assert (frame.first, frame.payload, frame.size) == (FIN | TEXT, payload, len(data))
    assert data[len(data) - len(payload) :] == bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_a_servers_frame_is_read_as_well(size: int) -> None:
    """It has no mask, RFC 6455 5.1."""
    data = server_frame(FIN | TEXT, b"x" * size)
    frame = read_frame(data + b"behind")
    assert frame is not None
    assert (frame.first, frame.payload, frame.size) == (FIN | TEXT, b"x" * size, len(data))
    assert all(read_frame(data[:cut]) is None for cut in range(min(len(data), 12)))


@given(st.integers(min_value=0, max_value=70_000), st.data())
def test_a_frame_that_is_not_whole_is_no_frame(size: int, data: st.DataObject) -> None:
    """However it is cut."""
    whole = client_frame(bytes(size))
    assert read_frame(whole[: data.draw(st.integers(min_value=0, max_value=len(whole) - 1))]) is None
