"""Payloads as clients post them."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.payload import MOST_POSTED, NotAPayload, packets_in

TEXTS = st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"]))
PACKETS = st.lists(st.one_of(TEXTS.map(lambda text: "4" + text), st.binary()), min_size=1, max_size=50)


@given(PACKETS)
def test_what_was_put_together_is_taken_apart(packets: list[str | bytes]) -> None:
    """Text behind its type; binary data in base64 behind a b."""
    parts = [b"b" + b64encode(each) if isinstance(each, bytes) else each.encode() for each in packets]
    assert packets_in(b"\x1e".join(parts)) == packets


@given(st.binary(max_size=200))
def test_anything_else_is_refused_and_nothing_worse(body: bytes) -> None:
    """NotAPayload, or packets with a type each."""
    try:
        packets = packets_in(body)
    except NotAPayload:
        return
    assert all(isinstance(each, bytes) or each[0] in "0123456" for each in packets)


def test_there_is_a_most() -> None:
    """1,000 packets."""
    assert len(packets_in(b"\x1e".join([b"4"] * MOST_POSTED))) == MOST_POSTED
    with pytest.raises(NotAPayload, match="1001 packets, more than 1000"):
        packets_in(b"\x1e".join([b"4"] * (MOST_POSTED + 1)))
