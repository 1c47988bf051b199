"""Several certificates on one port: who asks for a name gets the one that has it, through a real front."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lb import tls as module
from lb.certificates import CertificateError, Files, load
from lb.client_hello import HEADER
from lb.metrics import Metrics
from lb.tls import ENDS, OVERLAPS, REFUSED, RELOADED, UNKNOWN, Tls
from tests.lb.conftest import Run
from tests.support.backends import OK, answering, backend
from tests.support.balancer import Balancer, balancer
from tests.support.certificates import Certificates, replace
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def shop(made: Certificates) -> Certificates:
    return made.beside("shop", "shop.example", "*.shop.example")


@asynccontextmanager
async def served(made: Certificates, *more: Certificates) -> AsyncIterator[Balancer]:
    tls = {"more": [each.section for each in more]}
    async with backend(answering(OK)) as node, balancer(node.port, certificates=made, tls=tls) as front:
        yield front


@dataclass
class Browser:
    """A client that trusts the authority, and resumes the last session that it had under each name."""

    port: int
    context: ssl.SSLContext
    sessions: dict[str, ssl.SSLSession | None] = field(default_factory=dict)

    def visit(self, name: str, session_of: str = "") -> tuple[str, bool]:
        """Return the first name of the certificate, and whether a session was resumed."""
        session = self.sessions.get(session_of or name)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            self.context.wrap_socket(plain, server_hostname=name, session=session) as client,
        ):
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            self.sessions[name] = client.session
            found = client.getpeercert() or {}
            names: Sequence[tuple[str, str]] = found["subjectAltName"]  # type: ignore[assignment]
            return names[0][1], bool(client.session_reused)


def test_who_asks_for_a_name_gets_the_certificate_that_has_it(run: Run, made: Certificates, shop: Certificates) -> None:
    """Verified by the client; one that asks for none, or for one that nobody has, gets the first."""

    async def main() -> None:
        async with served(made, shop) as front:
            browser = Browser(front.port, made.trust("http/1.1"))
            wanted = {"localhost": "localhost", "shop.example": "shop.example", "A.Shop.Example": "shop.example"}
            for name, first in wanted.items():
                assert await asyncio.to_thread(browser.visit, name) == (first, False)
            assert await asyncio.to_thread(browser.visit, "127.0.0.1") == ("localhost", False)
            assert front.metrics.totals.unknown_names == 0
            browser.context.check_hostname = False
            assert await asyncio.to_thread(browser.visit, "b.a.shop.example") == ("localhost", False)
            assert front.metrics.totals.unknown_names == 1
            assert front.metrics.totals.tls == {"full": 5}

    run(main)


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_under_its_own_name_only(
    run: Run, made: Certificates, shop: Certificates, most: ssl.TLSVersion
) -> None:
    """Each certificate has its own keys for tickets (RFC 6066 3: no session of another name)."""

    async def main() -> None:
        async with served(made, shop) as front:
            browser = Browser(front.port, made.trust("http/1.1"))
            browser.context.maximum_version = most
            for name in ("localhost", "shop.example"):
                assert await asyncio.to_thread(browser.visit, name) == (name, False)
                assert await asyncio.to_thread(browser.visit, name) == (name, True)
            browser.context.check_hostname = False
            assert await asyncio.to_thread(browser.visit, "localhost", "shop.example") == ("localhost", False)

    run(main)


def test_a_name_in_a_hello_that_comes_in_several_records_is_found(
    run: Run, made: Certificates, shop: Certificates
) -> None:
    """As clients send it that hide from those who look at the first one only."""

    async def main() -> None:
        async with served(made, shop) as front:
            client, incoming, outgoing = in_memory(made, "shop.example")
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            record = outgoing.read()
            for piece in (record[HEADER : HEADER + 70], record[HEADER + 70 :]):
                writer.write(record[:3] + len(piece).to_bytes(2, "big") + piece)
                await writer.drain()
            async with asyncio.timeout(30):
                while client.version() is None or client.getpeercert() is None:
                    incoming.write(await reader.read(65_536))
                    try:
                        client.do_handshake()
                    except ssl.SSLWantReadError:
                        continue
            assert ("DNS", "shop.example") in (client.getpeercert() or {})["subjectAltName"]
            writer.transport.abort()
            await eventually(lambda: front.front.connections == 0)

    run(main)


def in_memory(made: Certificates, name: str) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Return a client that has written its hello, what it reads, and what it has written."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = made.trust("http/1.1").wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing


def test_a_name_that_is_no_text_costs_nothing_but_a_count(
    run: Run, made: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is nobody's fault of ours: no traceback, and nothing of it in what an operator is told."""

    async def main() -> None:
        async with served(made) as front:
            _, _, outgoing = in_memory(made, "shop.example")
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(outgoing.read().replace(b"shop", b"\xff\n\x1b["))
            assert (await reader.readexactly(1)) == b"\x16"
            writer.transport.abort()
            assert front.metrics.totals.unknown_names == 1
            assert front.tls is not None
            front.tls.tell_of_unknown()
            reason = "1 got lb.tls instead, the last one asked for what is no name"
            assert front.told == [(UNKNOWN, reason)]
            await eventually(lambda: front.front.connections == 0)

    run(main)
    assert capfd.readouterr().err == ""


@dataclass
class Scene:
    """A worker's TLS with two certificates, and what it tells."""

    made: Certificates
    shop: Certificates
    told: list[tuple[str, str, int]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.tls = Tls(self.files, self.tell, self.metrics, wall=lambda: self.now)
        self.now = max(load(each).begins for each in self.files)

    @property
    def files(self) -> list[Files]:
        pairs = {"lb.tls": self.made, "lb.tls.more.0": self.shop}
        return [Files(each.certificate, each.key, section=section) for section, each in pairs.items()]

    def tell(self, kind: str, reason: str, *, level: int) -> None:
        self.told.append((kind, reason, level))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.told]

    def look(self) -> None:
        for _ in range(2):
            self.tls.look()


@pytest.fixture
def scene(made: Certificates, shop: Certificates) -> Scene:
    return Scene(made, shop)


def test_each_pair_is_renewed_by_itself(scene: Scene) -> None:
    """One is broken and stays as it was; the other one is replaced meanwhile, names and all."""
    first, second = scene.tls.context("localhost"), scene.tls.context("shop.example")
    replace(scene.made.key, b"broken")
    scene.shop.names = ("new.example",)
    scene.shop.issue()
    scene.look()
    assert scene.kinds == [REFUSED, RELOADED]
    assert scene.tls.context("localhost") is first
    assert scene.tls.context("new.example") not in (first, second)
    assert scene.tls.context("shop.example") is first
    states = scene.tls.report()
    assert [each.refused for each in states] == [True, False]
    assert [each.file for each in states] == [str(scene.made.certificate), str(scene.shop.certificate)]

    replace(scene.shop.key, b"broken")
    scene.look()
    assert scene.told[-1][1].startswith(f"lb.tls.more.0.key: {scene.shop.key} holds no private key")
    scene.made.issue()
    scene.look()
    assert [each.refused for each in scene.tls.report()] == [False, True]
    assert scene.tls.context("localhost") is not first


def test_a_worker_begins_with_what_was_kept_of_those_that_are_broken(scene: Scene) -> None:
    """Each of them by itself; there is one for each."""
    kept = [load(each).pem for each in scene.files]
    replace(scene.shop.key, b"broken")
    scene.made.issue()
    with pytest.raises(CertificateError):
        Tls(scene.files, scene.tell, scene.metrics)
    tls = Tls(scene.files, scene.tell, scene.metrics, kept=kept)
    assert scene.kinds == [REFUSED]
    assert [each.refused for each in tls.report()] == [False, True]
    assert tls.pair.pem != kept[0]
    assert tls.context("shop.example") is not tls.context("localhost")


def test_the_end_of_each_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its place in the configuration; the files of which it is, by metrics."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    scene.shop.issue(days=3)
    scene.look()
    scene.told.clear()
    scene.now = load(scene.files[1]).expires - 86400

    async def main() -> None:
        task = asyncio.create_task(scene.tls.run())
        await eventually(lambda: scene.told)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    [(kind, reason, level)] = scene.told
    assert (kind, level) == (ENDS, logging.WARNING)
    assert reason.startswith("lb.tls.more.0: the certificate expires on ")
    first, second = scene.tls.report()
    assert (list(first.problems), list(second.problems)) == ([], [reason])


def test_names_in_vain_are_told_once_as_long_as_they_are(scene: Scene) -> None:
    """At the start, and when a renewal brings them."""
    scene.shop.names = ("shop.example", "localhost")
    scene.shop.issue()
    scene.look()
    remark = "lb.tls.more.0: who asks for localhost gets lb.tls, which comes first"
    assert scene.told[1:] == [(OVERLAPS, remark, logging.WARNING)]
    assert list(scene.tls.report()[1].problems) == [remark]
    scene.made.issue()
    scene.look()
    assert scene.kinds == [RELOADED, OVERLAPS, RELOADED]
    assert Scene(scene.made, scene.shop).told == scene.told[1:2]
    scene.shop.names = ("shop.example",)
    scene.shop.issue()
    scene.look()
    assert list(scene.tls.report()[1].problems) == []


def test_names_that_nobody_has_are_counted_and_told_from_time_to_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, then those that came since, and nothing when none came."""
    for name in ("localhost", ""):
        scene.tls.context(name)
    scene.tls.tell_of_unknown()
    assert scene.told == []
    assert scene.tls.context("blog.example") is scene.tls.context("localhost")
    scene.tls.tell_of_unknown()
    reason = "{} got lb.tls instead, the last one asked for {}"
    assert scene.told == [(UNKNOWN, reason.format(1, "blog.example"), logging.WARNING)]
    for name in ("news.example", "blog.example"):
        scene.tls.context(name)
    scene.tls.tell_of_unknown()
    assert len(scene.told) == 1
    monkeypatch.setattr(module, "UNKNOWN_S", 0.0)
    scene.tls.tell_of_unknown()
    assert scene.told[1:] == [(UNKNOWN, reason.format(2, "blog.example"), logging.WARNING)]
    scene.tls.tell_of_unknown()
    assert len(scene.told) == 2
    assert scene.metrics.totals.unknown_names == 3
