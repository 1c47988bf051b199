"""A certificate that is renewed while clients are connected."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from lb import tls
from lb.certificates import CertificateError, Files, Pem, load
from lb.metrics import Metrics
from lb.tls import ENDS, REFUSED, RELOADED, InUse, Tls
from tests.lb.conftest import Run
from tests.support.backends import backend, tunnel_echo
from tests.support.balancer import balancer, upgrade_request
from tests.support.certificates import Certificates, replace
from tests.support.waiting import eventually


@dataclass
class Scene:
    """A worker's TLS, and what it tells; `now` is the wall clock."""

    made: Certificates
    now: float = 0.0
    kept: Pem | None = None
    told: list[tuple[str, int]] = field(default_factory=list)
    tls: Tls = field(init=False)

    def __post_init__(self) -> None:
        files = [Files(self.made.certificate, self.made.key)]
        self.tls = Tls(files, self._tell, Metrics(), kept=[self.kept] if self.kept else [], wall=lambda: self.now)
        self.now = self.tls.pair.begins

    def _tell(self, kind: str, reason: str, *, level: int) -> None:
        assert reason
        self.told.append((kind, level))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(Certificates(tmp_path))


def test_a_new_pair_is_taken_when_it_rests(scene: Scene) -> None:
    """Seen once it may be half of a change; seen twice it is used, and said."""
    before = scene.tls.context()
    scene.tls.look()
    scene.made.issue(days=50)
    scene.tls.look()
    assert scene.tls.context() is before
    scene.tls.look()
    assert scene.tls.context() is not before
    assert scene.told == [(RELOADED, logging.INFO)]
    scene.tls.look()
    assert len(scene.told) == 1


def test_who_says_that_all_is_there_need_not_wait(scene: Scene) -> None:
    """SIGHUP."""
    before = scene.tls.context()
    scene.made.issue()
    scene.tls.look(is_whole=True)
    assert scene.tls.context() is not before


def test_what_cannot_be_used_is_said_once_and_the_old_one_stays(scene: Scene) -> None:
    """A key of another certificate, then nothing at all, then a good pair."""
    before, key = scene.tls.context(), scene.made.key.read_bytes()
    scene.made.issue()
    replace(scene.made.key, key)
    for _ in range(5):
        scene.tls.look()
    assert scene.tls.context() is before
    assert scene.told == [(REFUSED, logging.ERROR)]
    [report] = scene.tls.report()
    assert report.refused
    assert "is not the key of" in report.problems[0]

    scene.made.key.unlink()
    for _ in range(3):
        scene.tls.look()
    assert scene.told == [(REFUSED, logging.ERROR)] * 2
    assert scene.tls.context() is before

    scene.made.issue()
    for _ in range(2):
        scene.tls.look()
    assert scene.told[2:] == [(RELOADED, logging.INFO)]
    assert scene.tls.context() is not before
    assert scene.tls.report() == (InUse(str(scene.made.certificate), scene.tls.pair.expires, False, []),)


def test_a_worker_cannot_begin_with_what_cannot_be_used(tmp_path: Path) -> None:
    """It has no other one."""
    made = Certificates(tmp_path)
    made.key.unlink()
    with pytest.raises(CertificateError):
        Scene(made)


def test_a_worker_begins_with_what_was_kept_when_the_files_cannot_be_used(tmp_path: Path) -> None:
    """And says so at once; when they can be, they are."""
    made = Certificates(tmp_path)
    kept = load(Files(made.certificate, made.key))
    replace(made.key, b"broken")
    scene = Scene(made, kept=kept.pem)
    assert scene.told == [(REFUSED, logging.ERROR)]
    assert scene.tls.pair.expires == kept.expires
    [report] = scene.tls.report()
    assert report.refused
    assert "holds no private key" in report.problems[0]
    for _ in range(3):
        scene.tls.look()
    assert len(scene.told) == 1

    made.issue(days=50)
    for _ in range(2):
        scene.tls.look()
    assert scene.told[1:] == [(RELOADED, logging.INFO)]
    assert scene.tls.pair.expires < kept.expires


def test_what_was_kept_is_not_used_when_the_files_are_good(tmp_path: Path) -> None:
    """They may be newer than what the supervisor has seen."""
    made = Certificates(tmp_path)
    kept = load(Files(made.certificate, made.key)).pem
    made.issue()
    scene = Scene(made, kept=kept)
    assert scene.tls.pair.pem == Pem(made.certificate.read_bytes(), made.key.read_bytes())
    assert scene.told == []


def test_files_are_looked_at_and_ends_are_told_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: a change is found; an end that is near is a warning, one that has come an error, each said once."""
    monkeypatch.setattr(tls, "LOOK_S", 0.01)

    async def main() -> None:
        task = asyncio.create_task(scene.tls.run())
        scene.now = scene.tls.pair.expires - 86400
        await eventually(lambda: scene.told == [(ENDS, logging.WARNING)])
        scene.now = scene.tls.pair.expires
        await eventually(lambda: scene.told[1:] == [(ENDS, logging.ERROR)])
        assert "lb.tls: the certificate expired" in scene.tls.report()[0].problems[0]
        scene.made.issue(days=200)
        await eventually(lambda: scene.told[2:] == [(RELOADED, logging.INFO)])
        monkeypatch.setattr(tls, "REMIND_S", 0.0)
        scene.now = scene.tls.pair.expires
        await eventually(lambda: scene.told[3:5] == [(ENDS, logging.ERROR)] * 2)
        monkeypatch.setattr(tls, "LOOK_S", 60.0)
        count = len(scene.told)
        scene.tls.hurry()
        await eventually(lambda: len(scene.told) > count)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_open_connections_go_on_and_new_ones_get_the_new_certificate(run: Run, tmp_path: Path) -> None:
    """Of another authority and another kind of key, even."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with backend(tunnel_echo) as node, balancer(node.port, certificates=made) as front:
            old = await front.connect()
            old.send(upgrade_request())
            await old.head()
            first = certificate_of(old.writer.get_extra_info("ssl_object"))

            renewed = Certificates(tmp_path)
            renewed.issue(key_type=trustme.KeyType.RSA)
            assert front.tls is not None
            front.tls.look(is_whole=True)
            assert front.told[-1][0] == RELOADED
            with pytest.raises(ssl.SSLCertVerificationError):
                await front.connect()
            front.trust = renewed.trust()
            assert certificate_of((await front.connect()).writer.get_extra_info("ssl_object")) != first
            old.send(b"still here")
            assert await old.reader.readexactly(10) == b"still here"
            await eventually(lambda: front.metrics.totals.rejected == {"tls_failed": 1})

    run(main)


def certificate_of(spoken: ssl.SSLObject) -> bytes | None:
    return spoken.getpeercert(binary_form=True)
