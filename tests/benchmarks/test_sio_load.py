"""The Socket.IO load generator against real servers: it counts what they do, and finds what they do wrong."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.frames import BINARY, CLOSE, FIN, PING, PONG, TEXT, read_frame, server_frame
from benchmarks.measure import BenchmarkError, family
from benchmarks.peers import free_port
from benchmarks.sio.generator import Generator
from benchmarks.sio.peers import APP, SERVERS, Server, our_node
from benchmarks.sio.results import Result
from benchmarks.sio.swarm import Client, swarm_at

QUICK = Generator(seconds=0.4, size=16, patience_s=1.0)
"""A second without a message is enough to call it lost."""


def faults(result: Result) -> str:
    return "\n".join(result.faults)


def test_everything_is_counted_on_a_server_that_does_well(tmp_path: Path) -> None:
    """Each message to each client, each echo, each connect; and all has its price."""
    with our_node(tmp_path, APP) as server:
        (node,) = server.processes[SERVERS]
        assert family(node) == [node]
        lone = QUICK.broadcast(server, clients=7, rate=20, count=1)
        assert (lone.deliveries, lone.lost, faults(lone)) == (8 * 7, 0, "")
        burst = QUICK.broadcast(server, clients=5, rate=10, count=10)
        assert (burst.deliveries, burst.lost, faults(burst)) == (4 * 10 * 5, 0, "")
        assert (list(burst.servers.values()), burst.late) == ([5], False)
        echo = QUICK.echo(server, clients=3)
        assert (echo.lost, faults(echo)) == (0, "")
        connect = QUICK.connect(server, connects=30, at_once=4)
        assert (connect.connects, connect.failed, faults(connect)) == (30, 0, "")
        idle = QUICK.idle(server, clients=200)
        assert (idle.connections, idle.dropped, faults(idle)) == (200, 0, "")
    # By RSS: PSS also falls when somebody else starts a process that shares this one's pages.
    assert all(each > 1 for each in (lone.all_cpu_us, echo.cpu_us, connect.cpu_us, idle.rss_kib_per_connection))
    assert idle.rss_kib_before >= idle.pss_kib_before > 1000
    assert 0 < lone.p50_us <= lone.p99_us
    assert 0 < echo.p50_us <= echo.p99_us
    assert 0 < connect.p50_us <= connect.p99_us


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("losing", "lost, 0 came twice, 0 unknown ones came, 0 clients dropped"),
        ("doubling", "0 lost, 8 came twice"),
        ("changing", "14 lost, 0 came twice, 14 unknown ones came, 0 clients"),
        ("dropping", "clients dropped"),
    ],
)
def test_what_is_wrong_with_broadcasts_is_found(tmp_path: Path, app: str, said: str) -> None:
    """On any client."""
    with our_node(tmp_path, f"tests.benchmarks.faulty:{app}") as server:
        found = QUICK.broadcast(server, clients=2, rate=10, count=1)
    assert said in faults(found)


def test_messages_out_of_order_are_found_and_all_of_them_came(tmp_path: Path) -> None:
    """Nothing is lost then."""
    with our_node(tmp_path, "tests.benchmarks.faulty:reordering") as server:
        found = QUICK.broadcast(server, clients=2, rate=5, count=2)
    assert (found.lost, found.duplicated) == (0, 0)
    assert faults(found) == "8 messages out of order"


def test_two_handlers_may_overtake_each_other(tmp_path: Path) -> None:
    """Only what one handler sends has an order."""
    with our_node(tmp_path, "tests.benchmarks.faulty:overlapping") as server:
        found = QUICK.broadcast(server, clients=2, rate=5, count=2)
    assert (found.deliveries, found.lost, faults(found)) == (8, 0, "")


def test_an_acknowledgement_with_something_else_is_found(tmp_path: Path) -> None:
    """The client cannot go on then."""
    with our_node(tmp_path, "tests.benchmarks.faulty:changing") as server:
        found = QUICK.echo(server, clients=2)
    assert faults(found) == "0 events acknowledged, 0 not, 2 with something else, 2 clients dropped"


def test_clients_answer_the_servers_pings(tmp_path: Path) -> None:
    """A server drops those that do not, and would then do less than it should."""
    with our_node(tmp_path, "tests.benchmarks.faulty:pinging") as server:
        assert QUICK.idle(server, clients=5).dropped == 0


def test_a_server_that_cannot_be_reached_ends_the_generator_with_the_reason() -> None:
    """In one line."""
    nobody = Server("nobody", free_port(), {SERVERS: [os.getpid()]})
    with pytest.raises(BenchmarkError, match=r"client \d of 3 cannot connect: Connection refused"):
        QUICK.echo(nobody, clients=3)


def test_connects_that_fail_are_counted() -> None:
    """They have no latency and are not divided by."""
    with answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as (port, _):
        found = QUICK.connect(Server("full", port, {SERVERS: [os.getpid()]}), connects=4, at_once=2)
    assert faults(found) == "4 of 4 connects failed"


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed by the server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no upgrade: b'HTTP/1.1 400 Bad Request'"),
        (UPGRADE, "closed by the server"),
        (UPGRADE + server_frame(FIN | TEXT, b"4nonsense"), "unexpected packet while OPENING: b'4nonsense'"),
        (UPGRADE + server_frame(FIN | TEXT, b"0{}") + server_frame(FIN | TEXT, b"44{}"), "while JOINING: b'44{}'"),
        (UPGRADE + server_frame(FIN | BINARY, b""), "unexpected frame, first byte 0x82"),
        (UPGRADE + server_frame(FIN | CLOSE, b"\x03\xf0"), "closed by the server with code 1008"),
        (UPGRADE + server_frame(FIN | CLOSE, b""), "closed by the server with code 1005"),
    ],
)
def test_why_a_client_cannot_connect_is_told(answer: bytes, reason: str) -> None:
    """Rather than measured as a client that hears nothing."""
    with answering(answer) as (port, _), swarm_at(port) as swarm, pytest.raises(BenchmarkError) as failed:
        swarm.open(1, lambda number: Client(swarm, number))
    assert str(failed.value).startswith("client 0 of 1 cannot connect: ")
    assert reason in str(failed.value)


def test_a_websocket_ping_gets_its_pong() -> None:
    """RFC 6455 5.5.3: with the same payload."""
    with (
        answering(UPGRADE + server_frame(FIN | PING, b"are you there?")) as (port, received),
        swarm_at(port) as swarm,
        pytest.raises(BenchmarkError),
    ):
        swarm.open(1, lambda number: Client(swarm, number))
    pong = read_frame(b"".join(received))
    assert pong is not None
    assert (pong.opcode, pong.payload) == (PONG, b"are you there?")


def test_a_server_that_keeps_silent_is_not_waited_for_for_ever() -> None:
    """There is a limit to patience."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        swarm_at(silent.getsockname()[1], patience_s=0.2) as swarm,
        pytest.raises(BenchmarkError, match=r"opening 2 clients: nothing happens any more for 0\.2 s"),
    ):
        swarm.open(2, lambda number: Client(swarm, number))


def test_a_server_that_does_not_read_is_told() -> None:
    """Before the generator blocks on it."""
    with socket.create_server(("127.0.0.1", 0)) as silent, swarm_at(silent.getsockname()[1]) as swarm:
        client = swarm.add(Client(swarm, 0))
        connection, _ = silent.accept()
        with connection, pytest.raises(BenchmarkError, match="the server does not read"):
            client.send(bytes(100_000_000))


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server that reads a request, gives this answer and ends; yield its port and what it read after that."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(4096):
                        return
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while data := connection.recv(4096):
                        received.append(data)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield port, received
        finally:
            with socket.create_connection(("127.0.0.1", port)):
                pass  # no request: that ends it
            thread.join()
