"""The load generator tells a good echo from a lost, a changed, a doubled one; the echo server speaks the protocol."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from benchmarks import churn, client, load
from benchmarks.echo import Echo
from benchmarks.frames import BINARY, CLOSE, PING, PONG, read_frame, server_frame
from benchmarks.generator import Generator
from benchmarks.measure import BenchmarkError
from benchmarks.peers import Peer, echo_backend
from tests.support.ports import free_port

Answer = Callable[[bytes], list[bytes] | None]


class Faulty(Echo):
    """An echo server that answers each message with what `answer` makes of it; None closes the connection."""

    answer: Answer

    def _echo_frames(self) -> None:
        while (frame := read_frame(self._pending)) is not None:
            del self._pending[: frame.size]
            payloads = type(self).answer(frame.payload)
            if payloads is None:
                self._transport.abort()
                return
            for payload in payloads:
                self._transport.write(server_frame(frame.first, payload))


@contextmanager
def faulty(answer: Answer) -> Iterator[int]:
    """Run such a server in a thread of its own; yield its port."""
    protocol = type("Protocol", (Faulty,), {"answer": staticmethod(answer)})
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.close()


def generate(capsys: pytest.CaptureFixture[str], mode: str, port: int, *more: str) -> tuple[int, dict[str, Any]]:
    options = ["--port", str(port), "--pid", str(os.getpid()), "--connections", "5", "--seconds", "0.2"]
    status = load.main([mode, *options, "--warmup", "0.05", *more])
    output = capsys.readouterr()
    return status, json.loads(output.out) if output.out else {"stderr": output.err}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DRAIN_S", 0.3)
    monkeypatch.setattr(load, "SETTLE_S", 0.05)


@pytest.mark.parametrize("size", ["16", "126", "70000"])
def test_a_faithful_echo_loses_nothing(capsys: pytest.CaptureFixture[str], size: str) -> None:
    """At each width of the length field."""
    with faulty(lambda payload: [payload]) as port:
        status, found = generate(capsys, "echo", port, "--size", size)
    assert status == 0
    assert (found["lost"], found["mismatched"]) == (0, 0)
    assert found["round_trips"] > 5
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert found["cpu_us"] > 0


def test_open_loop_sends_at_the_rate_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """So that two balancers can be compared at the same load."""
    with faulty(lambda payload: [payload]) as port:
        _, found = generate(capsys, "echo", port, "--rate", "500")
    assert found["round_trips"] / found["seconds"] == pytest.approx(500, rel=0.5)  # a closed loop makes ten thousands
    assert found["lost"] == 0


@pytest.mark.parametrize(
    ("answer", "mismatched"),
    [
        pytest.param(lambda payload: [payload[:-1] + b"y"], 5, id="a byte changed"),
        pytest.param(lambda payload: [payload + b"x"], 5, id="a byte too many"),
        pytest.param(lambda payload: [payload, payload], 5, id="doubled"),
    ],
)
def test_a_changed_or_doubled_echo_is_counted(
    capsys: pytest.CaptureFixture[str], answer: Answer, mismatched: int
) -> None:
    """Once for each connection, which is over then."""
    with faulty(answer) as port:
        _, found = generate(capsys, "echo", port)
    assert (found["mismatched"], found["lost"]) == (mismatched, 0)


def test_the_echo_of_another_message_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages differ between connections and from one to the next, so a swapped one is seen."""
    seen: list[bytes] = []

    def first_for_all(payload: bytes) -> list[bytes]:
        seen.append(payload)
        return seen[:1]

    with faulty(first_for_all) as port:
        _, found = generate(capsys, "echo", port)
    assert found["mismatched"] == 5


@pytest.mark.parametrize(("answer", "what"), [(lambda _: [], "swallowed"), (lambda _: None, "connection closed")])
def test_an_echo_that_never_comes_is_lost(capsys: pytest.CaptureFixture[str], answer: Answer, what: str) -> None:
    """Swallowed, or the connection was closed with it."""
    with faulty(answer) as port:
        _, found = generate(capsys, "echo", port)
    assert (found["lost"], found["mismatched"]) == (5, 0), what


def test_idle_connections_are_all_held(capsys: pytest.CaptureFixture[str]) -> None:
    """And what they cost is given for each."""
    with faulty(lambda payload: [payload]) as port:
        status, found = generate(capsys, "idle", port)
    assert (status, found["connections"], found["lost"]) == (0, 5, 0)
    assert found["pss_kib_before"] > 1000


def test_handshakes_are_made_and_closed_as_the_rfc_has_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Upgrade, close frame there and back, end of the connection; all that are asked for, with times."""
    with echo_backend(tmp_path, None) as peer:
        status, found = generate(capsys, "handshakes", peer.port, "--handshakes", "30")
    assert status == 0
    assert (found["handshakes"], found["failed"]) == (30, 0)
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert found["balancer_cpu_us"] > 0


def test_the_node_behind_a_balancer_is_counted_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is a descendant of ours here, and no part of us."""
    with echo_backend(tmp_path, None) as peer:
        more = ["--handshakes", "30", "--node-pid", str(peer.pid)]
        _, found = generate(capsys, "handshakes", peer.port, *more)
    assert found["node_cpu_us"] > 0
    assert found["balancer_cpu_us"] > 0


AGREED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="closed at once"),
        pytest.param(AGREED[:20], id="closed within the answer"),
        pytest.param(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", id="refused"),
        pytest.param(AGREED, id="no close frame"),
        pytest.param(AGREED + server_frame(0x80 | CLOSE, b"\x03\xe8") + b"x", id="something behind the close frame"),
    ],
)
def test_a_handshake_that_goes_another_way_has_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Whatever it is; and nothing hangs."""
    monkeypatch.setattr(churn, "HANDSHAKE_TIMEOUT_S", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = Thread(target=answer)
        thread.start()
        options = ["--handshakes", "1", "--connections", "1"]
        status, found = generate(capsys, "handshakes", server.getsockname()[1], *options)
        thread.join()
    assert status == 0
    assert (found["handshakes"], found["failed"]) == (0, 1)


def test_handshakes_with_nobody_or_a_silent_one_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by the kernel, or never answered."""
    monkeypatch.setattr(churn, "HANDSHAKE_TIMEOUT_S", 0.1)
    _, found = generate(capsys, "handshakes", free_port(), "--handshakes", "3")
    assert (found["handshakes"], found["failed"]) == (0, 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, found = generate(capsys, "handshakes", server.getsockname()[1], "--handshakes", "3")
    assert (found["handshakes"], found["failed"]) == (0, 3)


def test_nobody_listening_is_one_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the port, and status 2."""
    port = free_port()
    status, found = generate(capsys, "echo", port)
    assert status == 2
    assert found["stderr"].startswith(f"not all 5 connections to port {port} could be opened: ")
    assert found["stderr"].count("\n") == 1


@pytest.mark.parametrize("said", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b""])
def test_a_refused_upgrade_is_one_readable_line(capsys: pytest.CaptureFixture[str], said: bytes) -> None:
    """With what the balancer said instead, if it said anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(said)

        thread = Thread(target=refuse)
        thread.start()
        status, found = generate(capsys, "echo", server.getsockname()[1], "--connections", "1")
        thread.join()
    assert status == 2
    assert f"closed during the handshake, after {said!r}" in found["stderr"]


def test_a_peer_that_never_answers_the_handshake_is_not_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a limit for opening all connections."""
    monkeypatch.setattr(client, "OPEN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(client, "LEAST_PER_S", 1e9)
    with socket.create_server(("127.0.0.1", 0)) as server:
        status, found = generate(capsys, "echo", server.getsockname()[1])
    assert status == 2
    assert "not within 0.1 s" in found["stderr"]


def test_the_echo_server_answers_http_ping_fragments_and_close(tmp_path: Path) -> None:
    """What a balancer's probe, or another load generator, may send: on one connection, one after the other."""
    with (
        echo_backend(tmp_path, None) as peer,
        socket.create_connection(("127.0.0.1", peer.port)) as client,
        client.makefile("rb") as stream,
    ):
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        while stream.readline() != b"\r\n":
            pass
        assert stream.read(3) == b"ok\n"
        client.sendall(
            b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            + masked(0x80 | PING, b"there?")
            + masked(BINARY, b"be")
        )
        assert stream.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in list(iter(stream.readline, b"\r\n"))
        client.sendall(masked(0x80, b"hind") + masked(0x80 | CLOSE, b"\x03\xe8"))
        assert stream.read() == b"".join(
            [
                server_frame(0x80 | PONG, b"there?"),
                server_frame(BINARY, b"be"),
                server_frame(0x80, b"hind"),
                server_frame(0x80 | CLOSE, b"\x03\xe8"),
            ]
        )


def masked(first: int, payload: bytes) -> bytes:
    key = b"\x01\x02\x03\x04"
    return bytes((first, 0x80 | len(payload))) + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def test_a_generator_that_is_not_there_is_named() -> None:
    """--wsload with a wrong path."""
    with pytest.raises(BenchmarkError, match="/nowhere/wsload cannot be started: No such file"):
        Generator("/nowhere/wsload", 0.1).idle(Peer("x", 1, os.getpid()), 1)


def test_a_generator_that_fails_is_quoted() -> None:
    """Its own last words, and its status."""
    with pytest.raises(BenchmarkError, match="ended with status 2: not all 1 connections"):
        Generator(None, 0.1).echo(Peer("x", free_port(), os.getpid()), connections=1, size=16, seconds=0.1)
