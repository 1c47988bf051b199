"""lb/status.py: the table, and what is said when nobody answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import lb.status
from cluster.config import Config
from cluster.errors import StartError
from cluster.member import Signal
from lb.metrics import Totals
from lb.pool import Pool
from lb.status import Shown, duration, show_status, summary, table
from lb.views import nodes_view
from tests.lb.test_admin import record
from tests.support.ports import free_port


def config(port: int, host: str = "127.0.0.1") -> Config:
    return Config.model_validate({"lb": {"admin": f"{host}:{port}"}})


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[int]:
    """Answer every GET so, on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def views() -> list[dict[str, Any]]:
    """Return what /api/nodes shows of a node of ours and of a plain server that is down."""
    pool = Pool(lambda: 0.0)
    load = {"memory_bytes": 50 * 2**20, "cpu_percent": 12.4, "loop_lag_ms": 3.0, "uptime_s": 3725.0}
    crowd = {"connections": 1204, "users": 1100, "messages_in": 88, "messages_out": 99}
    pool.seen([record("n3000", pid=4711, **(load | crowd))])
    pool.signal(pool.nodes["n3000"], Signal.RISE, "answers its probes")
    pool.add_static("fd00::5", 80)
    pool.signal(pool.nodes["[fd00::5]:80"], Signal.FALL, "connection refused")
    return nodes_view(pool, Totals(), [], 0.0)


def shown() -> list[Shown]:
    return [Shown.read(view) for view in views()]


def test_the_table_is_aligned_and_says_why_a_node_gets_nobody() -> None:
    """Words to the left, numbers to the right, unknown as a dash, the reason behind."""
    assert table(shown()) == [
        "NODE          ADDRESS          PID  STATE  CLIENTS  USERS  IN  OUT  CPU    MEMORY   LAG  UPTIME  PATH",
        "[fd00::5]:80  [fd00::5]:80       -  down         0      -   -    -    -         -     -       -  tunnel"
        "  connection refused",
        "n3000         127.0.0.1:3000  4711  ready     1204   1100  88   99  12%  50.0 MiB  3 ms   1h 2m  tunnel",
    ]


def test_the_summary_counts() -> None:
    """Nodes by state, and clients."""
    assert summary(shown()) == "2 nodes: 1 down, 1 ready; 1204 clients"
    assert summary([]) == "0 nodes: none; 0 clients"


def test_the_summary_names_nodes_that_were_taken_over() -> None:
    """Whoever killed a supervisor sees that its nodes are in good hands."""
    node = Shown.read(views()[1] | {"adopted": True})
    assert summary([node]) == "1 node: 1 ready; 1204 clients; taken over from a supervisor that died: n3000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0s"), (59.9, "59s"), (60, "1m 0s"), (3725, "1h 2m"), (86_400, "1d 0h"), (9e6, "104d 4h")],
)
def test_durations_are_said_in_their_two_largest_units(seconds: float | None, text: str) -> None:
    """Nobody wants the seconds of a day."""
    assert duration(seconds) == text


def test_what_a_node_says_of_itself_cannot_drive_the_terminal() -> None:
    """Escape sequences and newlines are shown as question marks."""
    view = views()[0] | {"reason": "\x1b[2Jgone\nfor good"}
    assert table([Shown.read(view)])[1].endswith("  ?[2Jgone?for good")


def test_a_newer_stack_may_say_more() -> None:
    """Fields that we do not know are left out."""
    assert Shown.read(views()[0] | {"shoe_size": 43}) == Shown.read(views()[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_running_stack_is_asked_and_shown(capsys: pytest.CaptureFixture[str], host: str) -> None:
    """Also one whose admin address is a wildcard: it is asked on loopback."""
    with answering(json.dumps({"nodes": views()}).encode()) as port:
        assert show_status(config(port, host)) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["NODE", "[fd00::5]:80", "n3000", "2"]


def test_nobody_there_is_one_readable_line() -> None:
    """The stack does not run, or has another admin address."""
    port = free_port()
    with pytest.raises(StartError) as caught:
        show_status(config(port))
    assert str(caught.value) == (
        f"nobody answers at 127.0.0.1:{port} (lb.admin): connection refused; is the stack running?"
    )
    assert caught.value.exit_code == 1


def test_a_stack_that_hangs_is_one_readable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and does not answer."""
    monkeypatch.setattr(lb.status, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(StartError, match=rf"^no answer at 127\.0\.0\.1:{port} \(lb\.admin\) within 0\.1 s$"):
            show_status(config(port))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>", 200),
        (b"[]", 200),
        (b'{"nodes": 5}', 200),
        (b'{"nodes": [{}]}', 200),
        (b'{"nodes": [5]}', 200),
        (b'{"error": "not here"}', 404),
    ],
)
def test_something_else_that_answers_is_one_readable_line(body: bytes, status: int) -> None:
    """Another program has the port."""
    with answering(body, status) as port, pytest.raises(StartError, match="is not Flotilla's admin API"):
        show_status(config(port))


def test_what_does_not_even_speak_http_is_one_readable_line() -> None:
    """An SSH server, say."""

    def greet(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=greet, args=(listening,))
        thread.start()
        with pytest.raises(StartError, match="is not Flotilla's admin API"):
            show_status(config(listening.getsockname()[1]))
        thread.join()
