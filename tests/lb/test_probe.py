"""lb/probe.py: what a probe says of servers that are well, sick, silent, or something else entirely."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest

from cluster.config import Health
from lb.probe import Found, probe
from tests.lb.conftest import Run
from tests.support.descriptors import no_descriptor_left
from tests.support.ports import free_port
from tests.support.upstreams import (
    Talk,
    accept_of,
    scripted_server,
    silent_server,
    socketio_node,
    switching_protocols,
)
from tests.support.waiting import eventually

BOTH = Health(timeout_s=30.0)
HTTP_ONLY = Health(timeout_s=30.0, websocket_path="")
WEBSOCKET_ONLY = Health(timeout_s=30.0, http_path="")
TCP_ONLY = Health(timeout_s=30.0, http_path="", websocket_path="")
IMPATIENT = 0.15

OPEN = b'0{"sid":"n3000-abcdefgh.x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'


def frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """Return a server's frame."""
    first = bytes(((0x80 if fin else 0) | opcode,))
    if len(payload) < 126:
        return first + bytes((len(payload),)) + payload
    return first + b"\x7e" + len(payload).to_bytes(2, "big") + payload


def answering(raw: bytes) -> Talk:
    return lambda head, writer: writer.write(raw)


def upgrading(after: bytes) -> Talk:
    return lambda head, writer: writer.write(switching_protocols(head) + after)


def probed(talk: Talk, settings: Health, *, then_close: bool = False) -> Found:
    async def main() -> Found:
        async with scripted_server(talk, then_close=then_close) as port:
            return await probe("127.0.0.1", port, settings)

    return asyncio.run(main())


def test_a_real_node_is_well_and_tells_its_slot(run: Run) -> None:
    """Both checks pass on python-socketio over aiohttp, and the open packet's sid names the node."""

    async def main() -> None:
        async with socketio_node("n3007") as node:
            found = await probe("127.0.0.1", node.port, BOTH)
            assert found == Found(slot="n3007", address=("127.0.0.1", node.port))

    run(main)


def test_a_node_with_sids_of_its_own_is_well_and_has_no_slot(run: Run) -> None:
    """Any Engine.IO server may be balanced; only ours sign their sids."""

    async def main() -> None:
        async with socketio_node() as node:
            found = await probe("localhost", node.port, BOTH)
            assert found.is_well
            assert found.slot == ""

    run(main)


def test_no_session_lingers_on_the_node(run: Run) -> None:
    """A probe each two seconds must not pile sessions up: it says goodbye and the node forgets it."""

    async def main() -> None:
        async with socketio_node() as node:
            for _ in range(5):
                assert (await probe("127.0.0.1", node.port, BOTH)).is_well
            await eventually(lambda: node.sessions == 0)

    run(main)


def test_a_goodbye_that_nobody_answers_does_not_change_the_verdict(run: Run) -> None:
    """A node that opened is well, also if it is slow to close."""

    async def main() -> None:
        async with scripted_server(upgrading(frame(OPEN))) as port:
            # The time of a probe is over only after the time of this test.
            assert (await probe("127.0.0.1", port, WEBSOCKET_ONLY.model_copy(update={"timeout_s": 600.0}))).is_well

    run(main)


def test_a_refused_connection_is_called_so() -> None:
    """Nobody listens."""
    found = asyncio.run(probe("127.0.0.1", free_port(), BOTH))
    assert found.fault == "connection refused"


def test_a_balancer_out_of_descriptors_does_not_blame_the_node(run: Run) -> None:
    """It could not ask, which says nothing of the node."""

    async def main() -> None:
        async with socketio_node() as node:
            with no_descriptor_left():
                found = await probe("127.0.0.1", node.port, BOTH)
            assert found == Found("too many open files", unknown=True)

    run(main)


def test_an_unknown_host_is_called_so() -> None:
    """The configured name does not resolve (RFC 6761 6.4: .invalid never does)."""
    found = asyncio.run(probe("nowhere.invalid", 80, BOTH))
    assert found.fault.startswith("host not found: ")


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "bad..name"])
def test_a_name_that_cannot_be_a_host_is_called_so(host: str) -> None:
    """RFC 1035 2.3.4: a label has 1 to 63 characters."""
    found = asyncio.run(probe(host, 80, BOTH))
    assert found.fault == f"{host!r} is no name of a host"


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (Health(timeout_s=IMPATIENT), "no answer to GET /healthz within 0.15 s"),
        (
            Health(timeout_s=IMPATIENT, http_path=""),
            "no answer to the WebSocket upgrade of /socket.io/ within 0.15 s",
        ),
    ],
)
def test_a_node_that_accepts_and_never_answers_fails_in_time(run: Run, settings: Health, fault: str) -> None:
    """A hanging process still has a listening socket: only the timeout tells."""

    async def main() -> None:
        async with silent_server() as port:
            assert (await probe("127.0.0.1", port, settings)).fault == fault

    run(main)


def test_a_node_whose_process_is_stopped_fails_in_time(run: Run) -> None:
    """A full backlog (here: nobody accepts) lets not even the connection through, or lets it hang."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
            port = listening.getsockname()[1]
            found = await probe("127.0.0.1", port, Health(timeout_s=IMPATIENT))
            assert found.fault.endswith("within 0.15 s")

    run(main)


@pytest.mark.parametrize("status", [301, 404, 500])
def test_an_answer_other_than_2xx_is_a_fault_with_its_number(run: Run, status: int) -> None:
    """Redirects are not followed: a node answers for itself."""

    async def main() -> None:
        async with socketio_node() as node:
            node.status = status
            assert (await probe("127.0.0.1", node.port, BOTH)).fault == f"GET /healthz answered {status}"

    run(main)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_any_2xx_is_well(status: int) -> None:
    """Not every server answers 200."""
    assert probed(answering(f"HTTP/1.1 {status} Fine\r\n\r\n".encode()), HTTP_ONLY) == Found()


@pytest.mark.parametrize(
    ("state", "leaving"),
    [("draining", True), ("joining", False), ("ready", False), ("gone fishing", False), (7, False)],
)
def test_a_node_that_says_that_it_drains_is_leaving_and_not_ill(run: Run, state: object, leaving: bool) -> None:
    """Its /healthz answers 503 with its state; only `draining` means that it still serves those that it has."""

    async def main() -> None:
        async with socketio_node() as node:
            node.status, node.body = 503, {"state": state}
            found = await probe("127.0.0.1", node.port, BOTH)
            assert not found.is_well
            assert found.leaving is leaving
            known = state in ("draining", "joining", "ready")
            assert found.fault == "GET /healthz answered 503" + (f": {state}" if known else "")

    run(main)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[" * 60_000,
        b'["draining"]',
        b"\xff\xfe",
        b'{"state":["draining"]}',
    ],
)
def test_a_body_that_says_nothing_about_a_state_is_no_state(body: bytes) -> None:
    """Whatever stands in the body, the probe only fails."""
    head = f"HTTP/1.1 503 No\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert probed(answering(head + body), HTTP_ONLY) == Found("GET /healthz answered 503", answers=True)


@pytest.mark.parametrize(
    "headers", ["Content-Length: 99999999", "Content-Length: many", "Transfer-Encoding: chunked", "X: y"]
)
def test_a_body_of_unknown_or_absurd_length_is_not_read(headers: str) -> None:
    """The status alone decides; nothing is waited for or kept."""
    raw = f"HTTP/1.1 503 No\r\n{headers}\r\n\r\n".encode()
    assert probed(answering(raw), HTTP_ONLY) == Found("GET /healthz answered 503", answers=True)


def test_a_body_that_breaks_off_is_no_state() -> None:
    """Half a JSON text says nothing."""
    raw = b'HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\n{"state":"drai'
    assert probed(answering(raw), HTTP_ONLY, then_close=True) == Found("GET /healthz answered 503", answers=True)


def test_interim_answers_are_passed_over() -> None:
    """RFC 9110 15.2: any number of 1xx may come before the final answer."""
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 200 OK\r\n\r\n"
    assert probed(answering(raw), HTTP_ONLY) == Found()


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "GET /healthz: the answer is not HTTP"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "GET /healthz: the answer is not HTTP"),
        (b"HTTP/1.1 200", "GET /healthz: closed in the middle of an answer"),
        (b"", "GET /healthz: closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "GET /healthz: the head of the answer is too long"),
    ],
)
def test_what_is_not_an_http_answer_is_named(raw: bytes, fault: str) -> None:
    """Some other service listens on the port, or the node dies while it answers."""
    assert probed(answering(raw), HTTP_ONLY, then_close=True).fault == fault


def test_a_reset_connection_is_called_so() -> None:
    """The node's kernel says that the process is no more."""

    def reset(head: bytes, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    assert probed(reset, HTTP_ONLY).fault == "connection reset by peer"


def test_an_upgrade_that_is_answered_otherwise_is_a_fault() -> None:
    """HTTP works, the WebSocket path does not: what plain HTTP checks never see."""
    raw = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    assert probed(answering(raw), WEBSOCKET_ONLY).fault == "WebSocket upgrade of /socket.io/ answered 400"


def test_a_wrong_accept_is_a_fault() -> None:
    """RFC 6455 4.1: a 101 that does not answer our key is a cache's or a stranger's."""
    raw = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: c3RhbGU=\r\n\r\n"
    fault = "WebSocket upgrade of /socket.io/ answered with a wrong Sec-WebSocket-Accept"
    assert probed(answering(raw), WEBSOCKET_ONLY).fault == fault


NO_PACKET = "the first WebSocket message is no Engine.IO open packet"


@pytest.mark.parametrize(
    ("after", "fault"),
    [
        (frame(b"hello"), NO_PACKET),
        (frame(b"0"), NO_PACKET),
        (frame(b"0{}"), NO_PACKET),
        (frame(b'0{"sid":""}'), NO_PACKET),
        (frame(b'0{"sid":5}'), NO_PACKET),
        (frame(b'0["sid"]'), NO_PACKET),
        (frame(b"0" + b"[" * 60_000), NO_PACKET),
        (frame(b"4" + OPEN[1:]), NO_PACKET),
        (frame(OPEN, opcode=2), NO_PACKET),
        (b"\xc1\x02hi", NO_PACKET),
        (b"\x81\x82\0\0\0\0hi", NO_PACKET),
        (b"\x81\x7f" + (2**40).to_bytes(8, "big"), NO_PACKET),
        (frame(b"\x03\xf5", opcode=8), "the WebSocket was closed with 1013 before the Engine.IO open packet"),
        (frame(b"", opcode=8), "the WebSocket was closed with 1005 before the Engine.IO open packet"),
        (b"", "the connection was closed before the Engine.IO open packet"),
        (frame(OPEN)[:20], "the connection was closed before the Engine.IO open packet"),
    ],
)
def test_a_websocket_without_an_open_packet_is_a_fault(after: bytes, fault: str) -> None:
    """The WebSocket opens, but what is behind it is not Engine.IO, or not well."""
    assert probed(upgrading(after), WEBSOCKET_ONLY, then_close=True).fault == fault


@pytest.mark.parametrize(
    "after",
    [
        frame(OPEN),
        frame(b"", opcode=9) + frame(OPEN),
        frame(OPEN[:30], fin=False) + frame(b"x", opcode=9) + frame(OPEN[30:], opcode=0),
        frame(OPEN[:-1] + b',"more":"' + b"x" * 200 + b'"}'),
        frame(OPEN) + frame(b"2"),
    ],
)
def test_an_open_packet_counts_however_it_is_framed(after: bytes) -> None:
    """Control frames may come first and between, messages in fragments (RFC 6455 5.4)."""
    found = probed(upgrading(after), WEBSOCKET_ONLY, then_close=True)
    assert (found.fault, found.slot) == ("", "n3000")


def test_an_open_packet_that_does_not_come_is_a_fault_in_time() -> None:
    """The upgrade works and then nothing: an event loop that is stuck."""
    settings = Health(timeout_s=IMPATIENT, http_path="")
    assert probed(upgrading(b""), settings).fault == "no Engine.IO open packet within 0.15 s"


def test_any_websocket_server_is_well_when_the_path_is_not_engine_io() -> None:
    """Without EIO=4 in the query the handshake is all that can be expected."""
    settings = Health(http_path="", websocket_path="/chat")
    assert probed(upgrading(b""), settings, then_close=True).is_well


def test_a_probe_closes_as_a_client_that_leaves(run: Run) -> None:
    """An Engine.IO close packet and a WebSocket close frame, both masked (RFC 6455 5.3)."""
    heard = bytearray()

    async def main() -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(switching_protocols(await reader.readuntil(b"\r\n\r\n")) + frame(OPEN))
            heard.extend(await reader.readexactly(7 + 8))
            writer.close()
            done.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            assert (await probe("127.0.0.1", server.sockets[0].getsockname()[1], WEBSOCKET_ONLY)).is_well
            await asyncio.wait_for(done.wait(), 30)

    run(main)
    assert heard == b"\x81\x81\0\0\0\0" + b"1" + b"\x88\x82\0\0\0\0" + b"\x03\xe8"


def test_the_request_is_what_a_server_expects() -> None:
    """Host with port (RFC 9110 7.2), the configured path and query as they are."""
    heads: list[bytes] = []

    def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if b"/up" in head else switching_protocols(head))

    settings = Health(http_path="/up?deep=1", websocket_path="/ws?a=b")
    assert probed(talk, settings, then_close=True).is_well
    assert heads[0].startswith(b"GET /up?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heads[1].startswith(b"GET /ws?a=b HTTP/1.1\r\nHost: 127.0.0.1:")
    assert accept_of(heads[1])


def test_with_both_checks_off_an_accepted_connection_is_well(run: Run) -> None:
    """Any TCP server may be balanced."""

    async def main() -> None:
        async with silent_server() as port:
            assert await probe("127.0.0.1", port, TCP_ONLY) == Found()
        assert (await probe("127.0.0.1", port, TCP_ONLY)).fault == "connection refused"

    run(main)


def test_a_cancelled_probe_leaves_no_connection(run: Run) -> None:
    """A stopping balancer cancels its probes; the node must not wait for them."""

    async def main() -> None:
        gone = asyncio.Event()
        arrived = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.set()
            try:
                while await reader.read(1000):
                    continue
            except ConnectionError:
                pass
            writer.close()
            gone.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(probe("127.0.0.1", server.sockets[0].getsockname()[1], BOTH))
            await asyncio.wait_for(arrived.wait(), 30)
            probing.cancel()
            await asyncio.wait_for(gone.wait(), 30)

    run(main)


@pytest.mark.parametrize(
    ("body", "degraded"),
    [(b'{"status":"degraded"}', True), (b'{"status":"ok"}', False), (b"[]", False), (b"ok", False)],
)
def test_a_node_that_does_not_reach_redis_says_so_and_is_well(body: bytes, degraded: bool) -> None:
    """It serves: whether it alone is cut off is not for a probe to say."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert probed(answering(head + body), HTTP_ONLY) == Found(degraded=degraded)


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_a_node_that_hears_nothing_is_not_ill_either(run: Run, state: str) -> None:
    """It answers 503, for balancers that know no better, and its WebSockets open all the same."""

    async def main() -> None:
        async with socketio_node() as node:
            node.status, node.body = 503, {"status": "deaf" if state == "ready" else state, "state": state}
            found = await probe("127.0.0.1", node.port, BOTH)
            assert (found.is_well, found.degraded, found.leaving) == (
                (True, True, False) if state == "ready" else (False, False, True)
            )

    run(main)


@pytest.mark.parametrize(("state", "answers"), [("joining", False), ("ready", True), ("down", True)])
def test_a_bad_answer_is_a_sign_of_life_unless_the_node_only_begins(state: str, answers: bool) -> None:
    """Where too few are well, those that live are asked."""
    body = json.dumps({"state": state}).encode()
    head = f"HTTP/1.1 503 No\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert probed(answering(head + body), HTTP_ONLY).answers is answers
