"""Plain HTTP that leads to https: where to, for whom, and what else that port does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.errors import BadRequest, NotForwarded
from lb.redirect import secured
from tests.lb.conftest import Run
from tests.support.access_lines import access_lines
from tests.support.backends import OK, answering, backend
from tests.support.balancer import Balancer, balancer, upgrade_request
from tests.support.certificates import Certificates
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def redirecting(
    certificates: Certificates, tls: dict[str, Any] | None = None, **lb: Any
) -> AsyncIterator[Balancer]:
    section = {"redirect": "127.0.0.1:0", "redirect_port": 443} | (tls or {})
    async with (
        backend(answering(OK)) as node,
        balancer(node.port, certificates=certificates, tls=section, **lb) as front,
    ):
        yield front


@pytest.mark.parametrize(
    ("host", "port", "target", "location"),
    [
        (b"chat.example", 443, "/", b"https://chat.example/"),
        (b"chat.example:80", 443, "/a?b=c&d", b"https://chat.example/a?b=c&d"),
        (b"chat.example:8080", 8443, "/", b"https://chat.example:8443/"),
        (b"127.0.0.1:", 443, "//evil.example/x", b"https://127.0.0.1//evil.example/x"),
        (b"[2001:db8::1]:80", 443, "/", b"https://[2001:db8::1]/"),
        (b"a_b.example", 443, "/%0d%0aX: y", b"https://a_b.example/%0d%0aX:%20y"),
        (b"a", 443, "/\udcff\u00fc", b"https://a/%FF%C3%BC"),
    ],
)
def test_the_location_is_the_same_over_https(host: bytes, port: int, target: str, location: bytes) -> None:
    """Host without its port, the https port unless it is the usual one, path and query as they came."""
    assert secured("GET", target, [(b"Host", host)], port) == location


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b""],
        [b"a", b"a"],
        [b"a", b"b"],
        [b"good.example@evil.example"],
        [b"evil.example/"],
        [b"evil.example\\.good.example"],
        [b"a b"],
        [b"a:80:80"],
        [b"a,b"],
        [b"\xff"],
        [b"a?b"],
        [b"x" * 256],
    ],
)
def test_a_host_that_one_could_be_led_astray_by_is_refused(hosts: list[bytes]) -> None:
    """Nobody is sent anywhere."""
    with pytest.raises(BadRequest):
        secured("GET", "/", [(b"Host", host) for host in hosts], 443)


def test_what_is_no_page_leads_nowhere() -> None:
    """CONNECT is for proxies, * is about this server."""
    with pytest.raises(NotForwarded):
        secured("CONNECT", "a:443", [(b"Host", b"a")], 443)
    with pytest.raises(BadRequest):
        secured("OPTIONS", "*", [(b"Host", b"a")], 443)


@given(target=st.binary(max_size=50), host=st.binary(min_size=1, max_size=30))
def test_whatever_is_asked_for_the_location_is_one_uri_of_that_host(target: bytes, host: bytes) -> None:
    """Printable ASCII, no space, no line of its own."""
    try:
        location = secured("GET", "/" + target.decode("utf-8", "surrogateescape"), [(b"Host", host)], 443)
    except BadRequest:
        return
    assert location.startswith(b"https://" + host.partition(b":")[0].partition(b"]")[0])
    assert all(0x21 <= octet <= 0x7E for octet in location)


def test_every_request_is_led_away(run: Run, certificates: Certificates) -> None:
    """Whatever its method, WebSockets too; a connection serves several; no node hears of it."""

    async def main() -> None:
        async with redirecting(certificates) as front:
            caller = await front.connect_plain()
            for _ in range(2):
                caller.send(b"GET /room?x=1 HTTP/1.1\r\nHost: chat.example:80\r\n\r\n")
                head, body = await caller.answer()
                assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
                assert b"\r\nLocation: https://chat.example/room?x=1\r\n" in head
                assert b"Connection: close" not in head
                assert body == b"308 Permanent Redirect\n"
            caller.send(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
            head, _ = await caller.answer()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close" not in head
            caller.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + upgrade_request("/ws"))
            assert b"Location: https://a/\r\n" in await caller.head()
            assert b"Location: https://test/ws\r\n" in await caller.head()
            caller = await front.connect_plain()
            caller.send(b"POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" + b"x" * 10)
            head, _ = await caller.answer()
            assert b"Location: https://a/form\r\n" in head
            assert b"Connection: close\r\n" in head
            caller.send(b"x" * 10)
            assert await caller.rest() == b""
            assert (front.metrics.totals.redirects, front.metrics.totals.rejected) == (5, {})
            assert front.metrics.totals.nodes == {}

    run(main)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", b"400"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"501"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"308"),
    ],
)
def test_requests_are_read_as_strictly_as_elsewhere(
    run: Run, certificates: Certificates, request_: bytes, status: bytes
) -> None:
    """And the connection ends with the refusal; with HTTP/1.0 in any case."""

    async def main() -> None:
        async with redirecting(certificates) as front:
            caller = await front.connect_plain()
            caller.send(request_)
            answer = await caller.rest()
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"\r\nConnection: close\r\n" in answer
            refused = 0 if status == b"308" else 1
            assert sum(front.metrics.totals.rejected.values()) == refused

    run(main)


def test_its_clients_have_the_limits_of_all(run: Run, certificates: Certificates) -> None:
    """A head that does not come, and more connections of an address than it may have."""

    async def main() -> None:
        async with redirecting(certificates, head_timeout_s=0.2, connections_per_address=1) as front:
            slow = await front.connect_plain()
            slow.send(b"GET / HTTP/1.1\r\n")
            await eventually(lambda: front.front.connections == 1)
            more = await front.connect_plain()
            more.send(GET)
            assert (await more.rest()).startswith(b"HTTP/1.1 429 ")
            assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
            await eventually(lambda: front.front.connections == 0)
            assert front.metrics.totals.rejected == {"address": 1, "head_timeout": 1}

    run(main)


def test_its_requests_have_the_guards_of_all(run: Run, certificates: Certificates) -> None:
    """The rate of an address, for one."""

    async def main() -> None:
        options = {"requests_per_s_per_address": 0.01, "request_burst_per_address": 1}
        async with redirecting(certificates, None, **options) as front:
            for status in (b"308", b"429"):
                caller = await front.connect_plain()
                caller.send(GET)
                assert (await caller.head()).startswith(b"HTTP/1.1 " + status)
            assert front.metrics.totals.rejected == {"rate": 1}

    run(main)


def test_it_leads_to_where_the_balancer_listens(run: Run, certificates: Certificates) -> None:
    """A real client that follows arrives, with the method and the body that it sent."""

    async def main() -> None:
        async with (
            redirecting(certificates, {"redirect_port": 0}) as front,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificates.trust("http/1.1"))) as session,
            session.post(f"http://localhost:{front.plain_port}/x", data=b"body") as answer,
        ):
            assert (answer.status, answer.method, await answer.text()) == (200, "POST", "ok")
            assert str(answer.url) == f"https://localhost:{front.port}/x"

    run(main)


def test_challenges_of_acme_are_answered_here(run: Run, certificates: Certificates, tmp_path: Path) -> None:
    """What certbot --webroot writes; what is not there is led away as all else is, and nothing else is served."""
    directory = tmp_path / ".well-known" / "acme-challenge"
    directory.mkdir(parents=True)
    (directory / "to-ken_1").write_bytes(b"to-ken_1.thumbprint")
    (tmp_path / "secret").write_bytes(b"secret")

    async def main() -> None:
        async with redirecting(certificates, {"challenges": str(tmp_path)}) as front:
            caller = await front.connect_plain()
            path = b"/.well-known/acme-challenge/"
            caller.send(b"GET " + path + b"to-ken_1 HTTP/1.1\r\nHost: a\r\n\r\n")
            head, body = await caller.answer()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == b"to-ken_1.thumbprint"
            caller.send(b"HEAD " + path + b"to-ken_1 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"\r\nContent-Length: 19\r\n" in await caller.head()
            for other in (b"gone", b"../../secret", b"..", b"", b"to-ken_1?x", b"%2e%2e/%2e%2e/secret"):
                caller.send(b"GET " + path + other + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                head, _ = await caller.answer()
                assert head.startswith(b"HTTP/1.1 308 ")
            caller.send(b"POST " + path + b"to-ken_1 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await caller.head()).startswith(b"HTTP/1.1 308 ")

    run(main)


def test_a_proxy_introduces_its_clients_here_as_well(run: Run, certificates: Certificates) -> None:
    """With PROXY protocol; the access log names the client."""

    async def main() -> None:
        options: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True}
        with access_lines() as access:
            async with redirecting(certificates, **options) as front:
                caller = await front.connect_plain()
                caller.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 80\r\n" + GET)
                assert (await caller.head()).startswith(b"HTTP/1.1 308 ")
                line = await access.line(1)
                assert (line["client"], line["status"], line["target"]) == ("203.0.113.7", 308, "/")

    run(main)


def test_stopping_ends_what_is_idle_here_too(run: Run, certificates: Certificates) -> None:
    """At once; and what is not, when its time is over."""

    async def main() -> None:
        async with redirecting(certificates) as front:
            idle, slow = await front.connect_plain(), await front.connect_plain()
            idle.send(GET)
            await idle.answer()
            slow.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            await slow.head()
            await front.front.stop(0.1)
            assert await idle.rest() == b""
            assert front.front.connections == 0

    run(main)
