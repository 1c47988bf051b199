"""The handoff's messages and the socket that carries them: what is sent arrives, and nothing else is believed."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import handoff
from cluster.ends import By, End
from cluster.handoff import BadPacket, Closed, Handoff, Message, Refused, Taken, message_in
from tests.support.handing import open_descriptors

NUMBER = st.integers(0, 2**64 - 1)
CODING = st.text(st.characters(codec="utf-8"), max_size=200)
SIZE = st.none() | st.integers(0, 2**56 - 1)
ENDS = st.builds(End, st.integers(0, 2**63 - 1), st.integers(0, 65535), st.sampled_from(By), SIZE, SIZE)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Handoff, NUMBER, NUMBER, CODING, st.binary(max_size=5000)),
    st.builds(Taken, NUMBER),
    st.builds(Refused, NUMBER, CODING),
    st.builds(Closed, st.lists(ENDS, max_size=50).map(tuple)),
)


@pytest.fixture(name="pair")
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a link, which do not block."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


@given(MESSAGES)
def test_every_message_is_read_as_it_was_written(message: Message) -> None:
    """For all four kinds, with any numbers, texts and bytes."""
    assert message_in(message.to_bytes()) == message


@given(st.lists(ENDS, max_size=50))
def test_a_balancer_that_knows_no_facts_reads_the_numbers_all_the_same(ends: list[End]) -> None:
    """Of a version before them it took each word for a number; no connection of its has one with the top bit."""
    rest = Closed(tuple(ends)).to_bytes()[1:]
    words = struct.unpack(f"!{len(rest) // 8}Q", rest)
    assert [word for word in words if word < 2**63] == [end.id for end in ends]


@pytest.mark.parametrize("report", [b"C1234567", b"C" + b"\xff" * 8])
def test_a_report_that_is_cut_or_about_nobody_is_refused(report: bytes) -> None:
    """Seven bytes; a fact with no number before it."""
    with pytest.raises(BadPacket):
        message_in(report)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_a_message(packet: bytes) -> None:
    """Whatever arrives, nothing but BadPacket is raised."""
    try:
        message = message_in(packet)
    except BadPacket:
        return
    assert isinstance(message, Message)


@given(MESSAGES, st.data())
def test_a_changed_message_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    """Cut, lengthened or with one byte changed: never another exception."""
    packet = message.to_bytes()
    at = data.draw(st.integers(0, len(packet) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    for changed in (packet[:at], packet + byte, packet[:at] + byte + packet[at + 1 :]):
        try:
            message_in(changed)
        except BadPacket:
            continue


@given(st.builds(Handoff, NUMBER, NUMBER, CODING, st.binary(min_size=1, max_size=500)), st.data())
def test_a_cut_handoff_is_never_taken_for_a_whole_one(given_: Handoff, data: st.DataObject) -> None:
    """A client's bytes arrive all or not at all."""
    packet = given_.to_bytes()
    with pytest.raises(BadPacket):
        message_in(packet[: data.draw(st.integers(0, len(packet) - 1))])


def test_the_largest_packets_fit_in_one_message(pair: tuple[socket.socket, socket.socket]) -> None:
    """MOST_BYTES and MOST_CLOSED_IN_ONE are what a socket buffer of the default size takes, and `receive` reads."""
    ours, theirs = pair
    for message in (
        Handoff(1, 2, "c" * 300, bytes(handoff.MOST_BYTES)),
        Closed(tuple(End(number, 1000, By.NODE, number, number) for number in range(handoff.MOST_CLOSED_IN_ONE))),
    ):
        handoff.send(ours, message)
        packet, _ = handoff.receive(theirs)
        assert message_in(packet) == message


def test_a_descriptor_arrives_as_another_one_of_the_same_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    """SCM_RIGHTS; the copy is not inherited by programs that we start (CLOEXEC)."""
    ours, theirs = pair
    near, far = socket.socketpair()
    with near, far:
        handoff.send(ours, Handoff(7, 8, "", b"GET"), near.fileno())
        near.close()
        packet, [descriptor] = handoff.receive(theirs)
        assert message_in(packet) == Handoff(7, 8, "", b"GET")
        assert not os.get_inheritable(descriptor)
        with socket.socket(fileno=descriptor) as copy:
            copy.send(b"over the copy")
            assert far.recv(100) == b"over the copy"


def test_descriptors_that_were_not_asked_for_are_seen_and_can_be_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """More than there is room for are closed by the kernel; none leaks."""
    ours, theirs = pair
    before = open_descriptors()
    with open(os.devnull) as null:
        socket.send_fds(ours, [b"x"], [null.fileno()] * 10)
    _, descriptors = handoff.receive(theirs)
    assert len(descriptors) > 1
    for descriptor in descriptors:
        os.close(descriptor)
    assert open_descriptors() == before


def test_a_packet_that_is_too_long_is_cut_and_then_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    """What no sender of ours sends."""
    ours, theirs = pair
    ours.send(Handoff(1, 2, "", bytes(handoff.MOST_BYTES + 2000)).to_bytes())
    packet, _ = handoff.receive(theirs)
    with pytest.raises(BadPacket):
        message_in(packet)


def _full(sock: socket.socket) -> OSError:
    """Send until there is no room, and return what is raised then."""
    try:
        while True:
            handoff.send(sock, Taken(1))
    except OSError as exc:
        return exc


def test_a_full_socket_is_overloaded_and_a_closed_one_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    """The sender must tell "wait" from "gone"."""
    ours, theirs = pair
    assert handoff.is_overload(_full(ours))
    theirs.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset by peer") as gone:
        handoff.send(ours, Taken(1))
    assert not handoff.is_overload(gone.value)


def test_the_end_of_the_link_is_an_empty_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    """No message of ours is empty."""
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        handoff.receive(theirs)
    ours.close()
    assert handoff.receive(theirs) == (b"", [])


def test_we_trust_ourselves(pair: tuple[socket.socket, socket.socket]) -> None:
    """SO_PEERCRED names the process that made the socket."""
    assert handoff.is_ours(pair[0])


_CONNECT = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.recv(1)
"""


def _connects_as(user: int, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", _CONNECT, str(path), str(user)])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("user", "ours"), [(0, True), (65534, False)])
def test_another_user_is_not_trusted(user: int, *, ours: bool) -> None:
    """Even where the directory lets him in, which it does not in a run directory."""
    with (
        tempfile.TemporaryDirectory(prefix="fl-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        path = Path(directory) / "open.sock"
        listener.bind(str(path))
        os.chmod(directory, 0o755)
        os.chmod(path, 0o777)
        listener.listen()
        listener.settimeout(10)
        process = _connects_as(user, path)
        accepted, _ = listener.accept()
        with accepted:
            assert handoff.is_ours(accepted) is ours
        assert process.wait(timeout=30) == 0
