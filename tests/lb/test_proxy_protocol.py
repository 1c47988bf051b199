"""The PROXY protocol: what is read, what is refused, and what becomes of connections that begin with it."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.errors import BadRequest
from lb.proxy_protocol import MOST_V2, ProxyHeader, read_header
from tests.lb.conftest import Run
from tests.support.balancer import balancer, upgrade_request
from tests.support.handing import bare_node, hands_over
from tests.support.upstreams import scripted_server
from tests.support.waiting import eventually

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 80\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def v2(source: str, *, command: int = 0x21, family: int | None = None, tlvs: bytes = b"", length: int = -1) -> bytes:
    """Return a version 2 header for a client at `source`."""
    address = ipaddress.ip_address(source)
    body = 2 * address.packed + struct.pack("!HH", 4000, 80) + tlvs
    kind = (0x11 if address.version == 4 else 0x21) if family is None else family
    return SIGNATURE + struct.pack("!BBH", command, kind, len(body) if length < 0 else length) + body


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4000 80\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (v2("203.0.113.7"), "203.0.113.7"),
        (v2("2001:db8::7"), "2001:db8::7"),
        (v2("203.0.113.7", tlvs=b"\x04\0\x03abc"), "203.0.113.7"),
        (v2("203.0.113.7", command=0x20), None),
        (v2("203.0.113.7", family=0x00), None),
        (v2("203.0.113.7", family=0x31), None),
    ],
)
def test_a_header_is_read_with_what_is_behind_it_left_alone(header: bytes, client: str | None) -> None:
    """And until it is whole there is no answer, wherever it is cut."""
    assert read_header(header + GET) == ProxyHeader(client, len(header))
    for cut in range(len(header)):
        assert read_header(header[:cut]) is None


@pytest.mark.parametrize(
    "header",
    [
        GET,
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 \xe9 1.2.3.4 1 2\r\n",
        b"PROXY " + b"x" * 120,
        v2("1.2.3.4", command=0x11),
        v2("1.2.3.4", command=0x22),
        v2("1.2.3.4", length=8),
        v2("1.2.3.4", family=0x21),
        v2("1.2.3.4", length=MOST_V2 + 1),
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    """Guessing would let a client say who it is."""
    with pytest.raises(BadRequest):
        read_header(header)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(received: bytes) -> None:
    """Nor do they behind a signature."""
    for prefix in (b"", b"PROXY ", SIGNATURE + b"\x21"):
        try:
            header = read_header(prefix + received)
        except BadRequest:
            continue
        assert header is None or header.size <= len(prefix + received)


def test_the_client_is_whom_the_header_names(run: Run) -> None:
    """However the header and the request are cut; a request in it that is forged is not trusted."""
    heads: list[bytes] = []

    async def main() -> None:
        def answer(head: bytes, writer: object) -> None:
            heads.append(head)
            writer.write(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n")  # type: ignore[attr-defined]

        talk = scripted_server(answer)
        async with talk as port, balancer(port, trusted_proxies=["127.0.0.1"], proxy_protocol=True) as front:
            request = GET.replace(b"Host", b"X-Forwarded-For: 6.6.6.6\r\nHost")
            for header in (V1, v2("203.0.113.7")):
                for pieces in ([header + request], [header, request], [header[:9], header[9:] + request]):
                    caller = await front.connect()
                    for number, piece in enumerate(pieces):
                        if number:
                            await eventually(lambda: front.front.connections == 1)
                        caller.send(piece)
                    assert (await caller.head()).startswith(b"HTTP/1.1 204")
                    caller.close()
                    await eventually(lambda: front.front.connections == 0)

    run(main)
    assert len(heads) == 6
    assert all(b"\r\nX-Forwarded-For: 203.0.113.7\r\n" in head for head in heads)


def test_a_websocket_behind_a_header_is_handed_over(run: Run, tmp_path: Path) -> None:
    """Without the header, which is none of the node's business."""

    async def main() -> None:
        async with (
            bare_node(tmp_path / "n0.sock") as node,
            balancer(1, trusted_proxies=["127.0.0.1"], proxy_protocol=True) as front,
        ):
            hands_over(front, node.path)
            (await front.connect()).send(V1 + upgrade_request())
            packet = await (await node.link()).packet()
            assert packet.received.startswith(b"GET /ws HTTP/1.1\r\n")
            assert b"\r\nX-Forwarded-For: 203.0.113.7\r\n" in packet.received

    run(main)


def test_a_connection_without_its_header_is_closed_without_an_answer(run: Run) -> None:
    """Refused, cut short or too slow: counted where it is the proxy's fault, and its place is free again."""

    async def main() -> None:
        async with balancer(1, trusted_proxies=["127.0.0.1"], proxy_protocol=True, head_timeout_s=0.2) as front:
            assert await front.ask(GET) == b""
            assert front.metrics.totals.rejected == {"bad_request": 1}
            for half in (V1[:20], SIGNATURE):
                caller = await front.connect()
                caller.send(half)
                assert await caller.rest() == b""
            caller = await front.connect()
            caller.send(V1[:20])
            caller.writer.write_eof()
            assert await caller.rest() == b""
            assert front.front.connections == 0

    run(main)


def test_who_is_no_proxy_is_read_as_http(run: Run) -> None:
    """It cannot say that it is somebody else."""

    async def main() -> None:
        async with balancer(1, trusted_proxies=["10.0.0.0/8"], proxy_protocol=True) as front:
            assert (await front.ask(V1 + GET)).startswith(b"HTTP/1.1 400 ")

    run(main)
