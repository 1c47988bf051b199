"""What the Socket.IO load generator writes and reads, as bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frames import BINARY, FIN, TEXT, read_frame, server_frame
from benchmarks.sio import wire
from benchmarks.sio.wire import Frames, Run, run_of_messages


def message(number: int, text: str = "x") -> bytes:
    return server_frame(FIN | TEXT, wire.event("message", {"n": number, "text": text}))


def test_events_and_acknowledgements_are_those_of_the_protocol() -> None:
    """Compact JSON, as both servers write it."""
    assert wire.event("say", {"first": 1}) == b'42["say",{"first":1}]'
    assert wire.event("echo", "ü", ack=12) == '4212["echo","ü"]'.encode()
    assert wire.acknowledged(0, "a b") == b'430["a b"]'


@given(st.integers(min_value=0, max_value=2**40))
def test_a_client_masks_with_a_key_that_changes_every_byte(number: int) -> None:
    """RFC 6455 5.3 asks for unpredictable keys; none of zeros, which a server might skip."""
    assert 0 not in wire.key_of(number)
    frame = read_frame(wire.framed(b"42[]", wire.key_of(number)))
    assert frame is not None
    assert (frame.first, frame.payload) == (FIN | TEXT, b"42[]")


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_are_found_however_they_are_cut(payloads: list[bytes], data: st.DataObject) -> None:
    """In order, each once; and it is known when nothing is held back."""
    stream = b"".join(server_frame(FIN | TEXT, payload) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(min_value=0, max_value=len(stream)), max_size=6)))
    frames = Frames()
    found: list[tuple[int, bytes]] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == [(FIN | TEXT, payload) for payload in payloads]
    assert frames.is_between


def test_what_is_not_whole_is_held_back() -> None:
    """So that nobody takes the rest for a frame of its own."""
    frames = Frames()
    assert list(frames.feed(message(1)[:-1])) == []
    assert not frames.is_between


@pytest.mark.parametrize(
    ("data", "run"),
    [
        (message(7), Run(7, 1)),
        (message(7) + message(8) + message(9), Run(7, 3)),
        (b"", None),
        (message(7) + message(9), None),
        (message(7) + message(8)[:-1], None),
        (message(7) + server_frame(FIN | TEXT, b"2"), None),
        (message(7) + server_frame(FIN | BINARY, b"x"), None),
        (message(7, "y"), None),
    ],
)
def test_consecutive_messages_are_one_run(data: bytes, run: Run | None) -> None:
    """Anything else is looked at frame by frame."""
    assert run_of_messages(data, "x") == run


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["message"],
        ["message", 1],
        ["message", {}],
        ["message", {"n": "1", "text": "x"}],
        ["message", {"n": 1, "text": "x", "more": 0}],
        ["message", {"n": 1, "text": "x"}, 2],
        ["massage", {"n": 1, "text": "x"}],
    ],
)
def test_another_event_has_no_number(content: object) -> None:
    """Whatever a server sends."""
    packet = b"42" + json.dumps(content, separators=(",", ":")).encode()
    assert wire.message_number(packet, "x") is None
    assert wire.message_number(packet[:-1], "x") is None
