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

from benchmarks import load
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
    monkeypatch.setattr(load, "OPEN_TIMEOUT_S", 0.1)
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
