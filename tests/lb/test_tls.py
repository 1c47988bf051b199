"""TLS on the public side, through a real front, with real certificates and clients."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from lb.farewell import FIRST_REQUEST_S
from lb.reception import HANDSHAKES_AT_ONCE
from tests.lb.conftest import Run
from tests.support.backends import OK, Backend, Conversation, Talk, answering, backend, tunnel_echo
from tests.support.balancer import Balancer, Caller, balancer, upgrade_request
from tests.support.certificates import Certificates
from tests.support.upstreams import switching_protocols
from tests.support.waiting import eventually, lastingly

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PROXIED = b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 443\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One for all tests here: none of them replaces it."""
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def nothing_is_said_of_a_fault_of_ours(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What clients do to a TLS port is nobody's error: neither ours nor asyncio's log has one."""
    yield
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in loud] == []


@asynccontextmanager
async def secured(talk: Talk, certificates: Certificates, **lb: Any) -> AsyncIterator[tuple[Balancer, Backend]]:
    async with backend(talk) as node, balancer(node.port, certificates=certificates, **lb) as front:
        yield front, node


async def raw(front: Balancer, data: bytes = b"") -> Caller:
    """Return a connection without TLS."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", front.port))
    front.callers.append(caller)
    caller.send(data)
    return caller


async def tunnelled(front: Balancer) -> Caller:
    caller = await front.connect()
    caller.send(upgrade_request())
    assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
    return caller


def hello(certificates: Certificates, *protocols: str) -> bytes:
    """Return the first record of a real client that offers `protocols`."""
    outgoing = ssl.MemoryBIO()
    client = certificates.trust(*protocols).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_request_is_answered_and_its_node_is_told_that_it_was_secure(run: Run, certificates: Certificates) -> None:
    """X-Forwarded-Proto is https whatever the client says; the cookie is Secure whatever lb.cookie says."""

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, node):
            caller = await front.connect()
            for _ in range(2):
                caller.send(b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: http\r\n\r\n")
                head, body = await caller.answer()
                assert body == b"ok"
                assert b"SameSite=Lax; Secure\r\n" in head
            assert node.headers()[b"x-forwarded-proto"] == [b"https"]
            assert node.headers()[b"x-forwarded-for"] == [b"127.0.0.1"]
            assert front.metrics.totals.tls == {"full": 1}

    run(main)


def test_what_is_spoken_is_modern(run: Run, certificates: Certificates) -> None:
    """TLS 1.3 if the client can, or 1.2 with forward secrecy and AEAD; HTTP/1.1 in ALPN; nothing compressed."""

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, _):
            for most, version in ((ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")):
                front.trust = certificates.trust("h2", "http/1.1")
                front.trust.maximum_version = most
                spoken = (await front.connect()).writer.get_extra_info("ssl_object")
                assert (spoken.version(), spoken.selected_alpn_protocol()) == (version, "http/1.1")
                assert spoken.compression() is None
            for weak in ("AES128-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"):
                front.trust = certificates.trust()
                front.trust.maximum_version = ssl.TLSVersion.TLSv1_2
                front.trust.set_ciphers(weak)
                with pytest.raises((ssl.SSLError, ConnectionResetError)):
                    await front.connect()
            await eventually(lambda: front.metrics.totals.rejected == {"tls_failed": 3})
            await eventually(lambda: front.front.connections == 2)

    run(main)


def test_the_least_version_may_be_raised(run: Run, certificates: Certificates) -> None:
    """Who speaks only an older one fails in the handshake."""

    async def main() -> None:
        async with secured(answering(OK), certificates, tls={"minimum": "1.3"}) as (front, _):
            await front.connect()
            front.trust = certificates.trust()
            front.trust.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await front.connect()

    run(main)


def test_a_client_that_offers_only_other_protocols_is_told_so(run: Run, certificates: Certificates) -> None:
    """By the alert no_application_protocol (RFC 7301 3.2), and counted; however its hello is cut."""
    only_h2 = hello(certificates, "h2")

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, _):
            front.trust = certificates.trust("h2")
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                await front.connect()
            for cut in (1, 4, 5, 6, len(only_h2) - 1):
                caller = await raw(front, only_h2[:cut])
                await eventually(lambda: front.front.connections == 1)
                caller.send(only_h2[cut:])
                assert await caller.rest() == b"\x15\x03\x03\x00\x02\x02\x78"
            assert front.metrics.totals.rejected == {"tls_alpn": 6}
            assert front.front.connections == 0

    run(main)


@pytest.mark.parametrize("pieces", [[GET], [b"G", b"ET / HTTP/1.1\r\nHost: h\r\n\r\n"], [b"OPTIONS", b" "]])
def test_plain_http_is_told_that_this_port_speaks_https(
    run: Run, certificates: Certificates, pieces: list[bytes]
) -> None:
    """400, readable, however its first bytes are cut; not a place is lost."""

    async def main() -> None:
        async with secured(answering(OK), certificates, connections_per_address=1) as (front, node):
            for _ in range(2):
                caller = await raw(front, pieces[0])
                for piece in pieces[1:]:
                    await eventually(lambda: front.front.connections == 1)
                    caller.send(piece)
                answer = await caller.rest()
                assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert answer.endswith(b"this port speaks https\n")
                assert b"Connection: close\r\n" in answer
            assert front.metrics.totals.rejected == {"plain_http": 2}
            assert front.front.connections == 0
            assert node.heads == []

    run(main)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"\x16\x02\x00\x00\x05hello",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x00\x02",
        b"\x15\x03\x01\x00\x02\x01\x00",
    ],
)
def test_garbage_is_closed_without_a_word(run: Run, certificates: Certificates, garbage: bytes) -> None:
    """And counted."""

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, _):
            assert await (await raw(front, garbage)).rest() == b""
            assert front.metrics.totals.rejected == {"tls_failed": 1}
            assert front.front.connections == 0

    run(main)


def test_a_record_that_is_no_hello_is_refused_by_tls_itself(run: Run, certificates: Certificates) -> None:
    """With an alert of OpenSSL's; also a hello in which something else comes is its business."""
    records = [b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x16\x03\x01\x00\x04\x01\x00\x00\x02\x15\x03\x01\x00\x02"]

    async def main() -> None:
        async with secured(answering(OK), certificates, head_timeout_s=0.2) as (front, _):
            for record in records:
                caller = await raw(front, record)
                caller.writer.write_eof()
                assert (await caller.rest())[:1] in (b"\x15", b"")
            await eventually(lambda: front.front.connections == 0)
            assert front.metrics.totals.rejected == {"tls_failed": 2}

    run(main)


def test_a_handshake_that_takes_too_long_is_ended(
    run: Run, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first byte, in the middle of its hello, and after it; a place is held meanwhile, and free again."""
    monkeypatch.setattr("lb.reception.LEAST_HANDSHAKE_S", 0.05)
    whole = hello(certificates)

    async def main() -> None:
        async with secured(answering(OK), certificates, head_timeout_s=0.3) as (front, _):
            callers = [await raw(front, part) for part in (whole[:3], whole[:100], whole)]
            await eventually(lambda: front.front.connections == 3)
            # The kernel shows us a silent one when it has waited for it for a while itself.
            for caller in [*callers, await raw(front)]:
                try:
                    await caller.rest()
                except ConnectionResetError:
                    continue
            await eventually(lambda: front.front.connections == 0)
            assert front.metrics.totals.rejected == {"tls_timeout": 4}

    run(main)


def test_who_leaves_in_the_middle_leaves_nothing(run: Run, certificates: Certificates) -> None:
    """By FIN or reset, wherever in the handshake."""
    whole = hello(certificates)

    async def main() -> None:
        async with secured(answering(OK), certificates, connections_per_address=1) as (front, _):
            for part in (b"", whole[:1], whole[:50], whole):
                for ends_well in (True, False):
                    caller = await raw(front, part)
                    if part:
                        await eventually(lambda: front.front.connections == 1)
                    if ends_well:
                        caller.writer.write_eof()
                        await caller.rest()
                    caller.close()
                    await eventually(lambda: front.front.connections == 0)
            await front.connect()

    run(main)


def test_places_are_counted_from_the_accept_and_refusals_cost_no_handshake(
    run: Run, certificates: Certificates
) -> None:
    """Who finds no place is closed without an answer: it could read none."""

    async def main() -> None:
        async with secured(answering(OK), certificates, connections_per_address=2) as (front, _):
            silent = [await raw(front, b"\x16") for _ in range(2)]
            await eventually(lambda: front.front.connections == 2)
            with pytest.raises(ConnectionError):
                await front.connect()
            assert front.metrics.totals.rejected == {"address": 1}
            silent[0].close()
            await eventually(lambda: front.front.connections == 1)
            assert (await front.connect()) is not None
        async with (
            backend(answering(OK)) as node,
            balancer(node.port, certificates=certificates, most_connections=1) as front,
        ):
            await raw(front, b"\x16")
            await eventually(lambda: front.front.connections == 1)
            with pytest.raises(ConnectionError):
                await front.connect()
            assert front.metrics.totals.rejected == {"overloaded": 1}

    run(main)


def test_a_session_is_resumed(run: Run, certificates: Certificates) -> None:
    """So the second handshake of a client costs no signature."""

    def twice(port: int) -> list[bool]:
        context, session, reused = certificates.trust("http/1.1"), None, []
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as client,
            ):
                client.sendall(GET)
                assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
                reused.append(bool(client.session_reused))
                session = client.session
        return reused

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, _):
            assert await asyncio.to_thread(twice, front.port) == [False, True]
            assert front.metrics.totals.tls == {"full": 1, "resumed": 1}

    run(main)


def test_a_proxy_introduces_its_client_before_tls_begins(run: Run, certificates: Certificates) -> None:
    """PROXY protocol, then TLS: in one piece, in several, and byte by byte; the node hears of the client."""

    async def main() -> None:
        options = {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True}
        async with secured(answering(OK), certificates, **options) as (front, node):
            for size in (1, 7, 10_000):
                answer = await asyncio.to_thread(through_a_proxy, certificates, front.port, size)
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert node.headers()[b"x-forwarded-for"] == [b"203.0.113.7"]
                assert node.headers()[b"x-forwarded-proto"] == [b"https"]

    run(main)


def through_a_proxy(certificates: Certificates, port: int, size: int) -> bytes:
    """Say who the client is, then speak TLS; send the beginning in pieces of `size` bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.trust("http/1.1").wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    data = PROXIED + outgoing.read()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            plain.sendall(data[at : at + size])

        def until(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65_536))
                finally:
                    plain.sendall(outgoing.read())

        until(client.do_handshake)
        client.write(GET)
        return bytes(until(lambda: client.read(4096)))


def test_websockets_go_through_the_tunnel_in_both_directions(run: Run, certificates: Certificates) -> None:
    """1 MiB each way, as it was; the bytes that are counted are the client's, not the encrypted ones."""
    data = bytes(range(256)) * 4096

    async def main() -> None:
        async with secured(tunnel_echo, certificates) as (front, node):
            caller = await tunnelled(front)
            assert node.headers()[b"x-forwarded-proto"] == [b"https"]
            caller.send(data)
            assert await caller.reader.readexactly(len(data)) == data
            caller.close()
            await eventually(lambda: front.front.tunnels == 0)
            counts = front.metrics.totals.nodes["n0"]
            assert (counts.bytes_from_client, counts.bytes_from_node) == (len(data), len(data))
            assert front.front.connections == 0

    run(main)


def test_early_bytes_and_a_slow_reader_lose_nothing(run: Run, certificates: Certificates) -> None:
    """What comes with the request, and what waits for a client that does not read yet."""
    much = b"x" * 2**25  # more than the kernel's buffers hold

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        assert await conversation.reader.readexactly(5) == b"early"
        await conversation.send(much)

    async def main() -> None:
        async with secured(talk, certificates) as (front, _):
            caller = await front.connect()
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.send(upgrade_request() + b"early")
            await eventually(lambda: front.front.tunnels == 1)
            (tunnel,) = front.front._tunnels._open
            await eventually(lambda: not tunnel.node_end.transport.is_reading())
            assert tunnel.client.waiting > 0
            caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await caller.head()
            assert await caller.reader.readexactly(len(much)) == much

    run(main)


def test_one_sides_end_is_the_others(run: Run, certificates: Certificates) -> None:
    """What was sent before arrives; no half of a TLS connection is kept open."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        if head.startswith(b"GET /client-ends"):
            assert await conversation.until_closed() == b"last words"
        else:
            await conversation.send(b"last words")
            conversation.finish()
            await conversation.until_closed()

    async def main() -> None:
        async with secured(talk, certificates) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request("/client-ends"))
            await caller.head()
            caller.send(b"last words")
            caller.writer.close()  # close_notify, then FIN
            await eventually(lambda: node.conversations[0].ended.is_set())
            await eventually(lambda: front.front.tunnels == 0)

            caller = await front.connect()
            caller.send(upgrade_request("/node-ends"))
            await caller.head()
            assert await caller.rest() == b"last words"
            await eventually(lambda: front.front.tunnels == 0)
            assert front.front.connections == 0

    run(main)


def test_a_reset_ends_both_sides(run: Run, certificates: Certificates) -> None:
    """Whoever is left must not wait for what never comes."""

    async def main() -> None:
        async with secured(tunnel_echo, certificates) as (front, node):
            caller = await tunnelled(front)
            node.conversations[-1].reset()
            with suppress(ConnectionResetError):
                assert await caller.rest() == b""
            caller = await tunnelled(front)
            sock = caller.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()
            await eventually(lambda: node.conversations[-1].ended.is_set())
            await eventually(lambda: front.front.connections == 0 and front.front.tunnels == 0)

    run(main)


def test_a_refused_request_can_be_read(run: Run, certificates: Certificates) -> None:
    """400 and 408 arrive, and the connection ends although the client goes on to send."""

    async def main() -> None:
        async with secured(answering(OK), certificates, head_timeout_s=0.3) as (front, _):
            for request, status in ((b"NONSENSE\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nX: ", b"408")):
                caller = await front.connect()
                caller.send(request)
                answer = await caller.rest()
                assert answer.startswith(b"HTTP/1.1 " + status)
            await eventually(lambda: front.front.connections == 0)
            await eventually(lambda: front.front._admission.lingering == 0)

    run(main)


def test_real_clients_speak_http_and_websockets(run: Run, certificates: Certificates) -> None:
    """aiohttp's, with verification on."""

    async def main() -> None:
        async with (
            secured(answering(OK), certificates) as (front, _),
            aiohttp.ClientSession() as session,
            session.get(f"{front.url}/", ssl=certificates.trust("http/1.1")) as answer,
        ):
            assert (answer.status, await answer.text()) == (200, "ok")

    run(main)


def test_more_handshakes_than_are_begun_at_once_all_succeed(run: Run, certificates: Certificates) -> None:
    """A few in each turn of the event loop, in the order in which they came."""

    async def main() -> None:
        async with secured(answering(OK), certificates) as (front, _):
            callers = await asyncio.gather(*(front.connect() for _ in range(5 * HANDSHAKES_AT_ONCE)))
            for caller in callers:
                caller.send(GET)
            for caller in callers:
                assert (await caller.answer())[1] == b"ok"
            assert front.metrics.totals.tls == {"full": len(callers)}

    run(main)


def test_stopping_waits_for_the_first_request_of_who_has_just_come(run: Run, certificates: Certificates) -> None:
    """Its handshake took a round trip, and it cannot know; who brings none is ended soon, as is who is idle."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port, certificates=certificates) as front:
            idle, fresh, silent = [await front.connect() for _ in range(3)]
            begun = await raw(front, b"\x16")
            idle.send(GET)
            await idle.answer()
            await eventually(lambda: front.front.connections == 4)
            stopping = asyncio.create_task(front.front.stop(FIRST_REQUEST_S * 8))
            await idle.rest()
            fresh.send(GET)
            assert (await fresh.head()).startswith(b"HTTP/1.1 200 OK")
            for caller in (fresh, silent, begun):
                await caller.rest()
            await stopping
            assert front.front.connections == 0

    run(main)


def test_stopping_ends_handshakes_when_its_time_is_over(run: Run, certificates: Certificates) -> None:
    """Who never finishes one holds nobody up."""
    whole = hello(certificates)

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port, certificates=certificates) as front:
            caller = await raw(front, whole)
            await caller.reader.readexactly(5)  # the server's part of the handshake
            await front.front.stop(0.1)
            assert front.front.connections == 0

    run(main)


def test_an_answer_that_ends_with_its_connection_arrives_whole(run: Run, certificates: Certificates) -> None:
    """A slow reader takes it after we have closed, and hears that it was all (close_notify)."""
    body = b"y" * 2**25

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def main() -> None:
        async with secured(talk, certificates) as (front, node):
            caller = await front.connect()
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
            await eventually(lambda: node.heads)
            await lastingly(lambda: front.front.connections == 1, 0.2)
            caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await caller.head()).startswith(b"HTTP/1.1 200 OK")
            assert await caller.rest() == body
            await eventually(lambda: front.front.connections == 0)

    run(main)


def test_a_large_body_arrives_whole(run: Run, certificates: Certificates) -> None:
    """As it was sent, to a node that reads slowly."""
    size = 2**24
    received: list[int] = []
    go = asyncio.Event()

    async def talk(conversation: Conversation, head: bytes) -> None:
        await go.wait()
        received.append(len(await conversation.reader.readexactly(size)))
        await conversation.send(OK)

    async def main() -> None:
        async with secured(talk, certificates) as (front, node):
            caller = await front.connect()
            caller.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"z" * size)
            await eventually(lambda: node.heads)
            go.set()
            assert (await caller.answer())[1] == b"ok"
            assert received == [size]

    run(main)


def test_a_tunnel_whose_client_takes_nothing_is_cut(
    run: Run, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what waits has been encrypted already, and only the kernel shows that it waits."""
    monkeypatch.setattr("lb.carried.STUCK_S", 0.3)

    async def talk(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        with suppress(ConnectionError):
            await conversation.send(b"x" * 2**25)
        await conversation.until_closed()

    async def main() -> None:
        async with secured(talk, certificates) as (front, _):
            front.front._tunnels._sweep_s = 0.05
            caller = await front.connect()
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.send(upgrade_request())
            await eventually(lambda: front.front.tunnels == 1)
            (tunnel,) = front.front._tunnels._open
            await eventually(lambda: not tunnel.node_end.transport.is_reading())
            await eventually(lambda: front.front.tunnels == 0)
            assert front.front.connections == 0

    run(main)


def test_a_tunnel_that_rests_is_left_alone(
    run: Run, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits in it: there is no limit to silence."""
    monkeypatch.setattr("lb.carried.STUCK_S", 0.1)

    async def main() -> None:
        async with secured(tunnel_echo, certificates) as (front, _):
            front.front._tunnels._sweep_s = 0.02
            caller = await tunnelled(front)
            await lastingly(lambda: front.front.tunnels == 1, 0.5)
            caller.send(b"echo")
            assert await caller.reader.readexactly(4) == b"echo"

    run(main)
