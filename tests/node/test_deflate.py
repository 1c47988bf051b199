"""permessage-deflate: what is agreed on, and what goes over the wire."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.deflate import LEAST_BYTES, MOST_STREAMS, Inflated, agree, deflate, framed, inflate
from node.frames import BINARY, TEXT, frame
from node.message import Message

NO_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "bits", "answer"),
    [
        (["permessage-deflate"], 15, NO_TAKEOVER),
        (["Permessage-Deflate ; client_max_window_bits"], 15, NO_TAKEOVER),
        (["permessage-deflate; client_max_window_bits=8"], 15, NO_TAKEOVER),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], 15, NO_TAKEOVER),
        (["permessage-deflate; server_max_window_bits=15"], 15, NO_TAKEOVER),
        (["permessage-deflate; server_max_window_bits=9"], 9, f"{NO_TAKEOVER}; server_max_window_bits=9"),
        (['permessage-deflate; server_max_window_bits="10"'], 10, f"{NO_TAKEOVER}; server_max_window_bits=10"),
        (["permessage-deflate; server_max_window_bits=8, permessage-deflate"], 15, NO_TAKEOVER),
        (["x-webkit-deflate-frame, permessage-deflate"], 15, NO_TAKEOVER),
        (["x-other; a=b", "permessage-deflate"], 15, NO_TAKEOVER),
    ],
)
def test_the_first_offer_that_can_be_kept_is_accepted(offers: list[str], bits: int, answer: str) -> None:
    """RFC 7692 5.1 and 7.1."""
    assert agree(offers) == (bits, answer)


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=ten",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; surprise",
        "permessage-deflate;",
    ],
)
def test_offers_that_cannot_be_kept_are_declined(offer: str) -> None:
    """RFC 7692 7.1: a wrong, unknown or repeated parameter declines the whole offer."""
    assert agree([offer]) is None


@given(st.binary(max_size=5000), st.integers(9, 15))
def test_what_is_deflated_inflates_to_the_same(payload: bytes, bits: int) -> None:
    """By us, and by a client with a window no larger than what was agreed on."""
    small = deflate(payload, bits)
    assert inflate(small, 5000) == payload
    assert zlib.decompressobj(-bits).decompress(small + b"\x00\x00\xff\xff") == payload


def test_a_stream_may_end_inside_a_message() -> None:
    """RFC 7692 7.2.3.4: "Hello" in a block with BFINAL set, and the bytes of 7.2.3.5; but not any number of them."""
    assert inflate(bytes.fromhex("f348cdc9c9070000"), 100) == b"Hello"
    assert inflate(bytes.fromhex("f248050000 00ffffcac9c907 00".replace(" ", "")), 100) == b"Hello"
    with pytest.raises(Inflated, match="too many"):
        inflate(bytes.fromhex("0300") * (MOST_STREAMS + 1), 100)


def test_short_messages_are_not_compressed() -> None:
    """It would not pay; without an agreement none is."""
    long = b"x" * LEAST_BYTES
    assert framed(TEXT, long[:-1], 15) == frame(TEXT, long[:-1])
    assert framed(TEXT, long, 0) == frame(TEXT, long)
    assert len(framed(TEXT, long, 15)) < 50


def test_a_message_is_compressed_once_for_all_clients() -> None:
    """Once for each window that they agreed on."""
    message = Message(b"x" * 2000, (b"y" * 2000, b"z"))
    assert message.deflated(15) is message.deflated(15)
    assert message.deflated(9) is message.deflated(9)
    expected = framed(TEXT, b"4" + b"x" * 2000, 15) + framed(BINARY, b"y" * 2000, 15) + frame(BINARY, b"z")
    assert message.deflated(15) == expected
