"""What the supervisor keeps for workers to come, and what they make of it."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.config import Tls as Settings
from cluster.errors import StartError
from lb import kept as module
from lb.certificates import CertificateError, Files, Pem
from lb.kept import LOOK_S, Kept, inherited
from lb.tls import LOOK_S as WORKERS_LOOK_S
from tests.support.certificates import Certificates, replace


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def files(made: Certificates) -> Files:
    return Files(made.certificate, made.key)


def pem(made: Certificates) -> Pem:
    return Pem(made.certificate.read_bytes(), made.key.read_bytes())


def given(kept: Kept) -> list[Pem]:
    """Return what a worker that starts now reads."""
    return inherited(os.dup(kept.fileno()))


def test_a_new_worker_is_given_the_last_pair_that_was_good(made: Certificates) -> None:
    """Neither a broken one, nor half of a change; the descriptor stays the same."""
    kept = Kept([files(made)])
    try:
        first, fd = pem(made), kept.fileno()
        assert given(kept) == given(kept) == [first]
        replace(made.key, b"broken")
        for _ in range(3):
            kept.look()
        assert given(kept) == [first]
        made.issue()
        kept.look()
        assert given(kept) == [first]
        kept.look()
        assert given(kept) == [pem(made)] != [first]
        made.issue()
        kept.look(is_whole=True)
        assert given(kept) == [pem(made)]
        assert kept.fileno() == fd
        assert not os.get_inheritable(fd)
    finally:
        kept.close()


def test_what_a_worker_has_read_stays_whole_while_another_takes_its_place(made: Certificates) -> None:
    """It has its own descriptor of the file that was."""
    kept = Kept([files(made)])
    try:
        first, early = pem(made), os.dup(kept.fileno())
        made.issue()
        kept.look(is_whole=True)
        assert inherited(early) == [first]
    finally:
        kept.close()


def test_remarks_in_any_coding_come_back_as_they_were(made: Certificates) -> None:
    """PEM files have them (RFC 7468 2)."""
    replace(made.certificate, b"\xe9\xff remark\n" + made.certificate.read_bytes())
    kept = Kept([files(made)])
    try:
        assert given(kept) == [pem(made)]
    finally:
        kept.close()


def test_the_first_pair_must_be_good(made: Certificates, tmp_path: Path) -> None:
    """There is none before it; without TLS nothing is kept."""
    made.key.unlink()
    with pytest.raises(CertificateError, match="cannot be read"):
        Kept.of(Settings(certificate="tls.crt", key="tls.key"), tmp_path)
    assert Kept.of(Settings(), tmp_path) is None


def no_room(_: bytes) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_pair_for_which_there_is_no_room_is_kept_as_soon_as_there_is(
    made: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said; the one before stays meanwhile.  A supervisor cannot begin like that."""
    kept = Kept([files(made)])
    try:
        first = pem(made)
        made.issue()
        with monkeypatch.context() as patched:
            patched.setattr(module, "nameless", no_room)
            kept.look(is_whole=True)
            assert given(kept) == [first]
            with pytest.raises(StartError, match="Too many open files"):
                Kept([files(made)])
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        kept.look()
        assert given(kept) == [pem(made)]
    finally:
        kept.close()


def test_the_supervisor_looks_twice_as_often_as_workers_do() -> None:
    """What rests for one look of theirs rests for one of its own."""
    assert LOOK_S * 2 <= WORKERS_LOOK_S


def test_a_descriptor_that_holds_nothing_is_told() -> None:
    """Closed, or none at all."""
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    with pytest.raises(StartError, match=f"descriptor {reading} holds no certificates"):
        inherited(reading)
