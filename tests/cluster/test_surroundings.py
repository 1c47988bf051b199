"""What the system around a supervisor tells it, and what it tells the system."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster import descriptors
from cluster.config import Config
from cluster.errors import UsageError
from cluster.notify import READY, notify
from cluster.terminal import Terminal
from tests.support.commands import runtime_directory
from tests.support.stack import ROOT


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_descriptors() -> list[int]:
    found = []
    for descriptor in range(1024):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return found


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    """And if it is there already, nothing happens."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert descriptors.raise_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert descriptors.raise_limit() == hard


def test_a_limit_that_the_system_refuses_to_raise_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS does beyond kern.maxfilesperproc."""

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        assert descriptors.raise_limit() == 256


def test_room_for_all_descriptors_is_made_at_once() -> None:
    """And none of them is left open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    for limit in (300, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        descriptors.reserve_table()
        assert open_descriptors() == before


def test_without_memory_for_that_room_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The table grows when it must, then; the log says so."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with caplog.at_level("INFO"):
        descriptors.reserve_table()
    assert [record.message for record in caplog.records] == ["no room reserved for descriptors"]
    assert open_descriptors() == before


def test_more_clients_than_the_limit_holds_are_refused() -> None:
    """A tunnelled one takes two descriptors; what would fit is told, and does fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fits = (hard - descriptors.SPARE) // 2
    with pytest.raises(UsageError, match=f"the limit is {hard}; allowed: at most {fits},"):
        descriptors.check_connections(Config.model_validate({"lb": {"max_connections": fits + 1}}))
    descriptors.check_connections(Config.model_validate({"lb": {"max_connections": fits}}))
    descriptors.check_connections(Config())


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified_where_it_wants(monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    """A path, or an abstract name written with @."""
    with runtime_directory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = str(directory / "notify")
        listener.bind(f"\0{path}" if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        notify(READY)
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nobody_is_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without the variable, nor when nobody listens there."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    notify(READY)


def test_who_never_had_a_terminal_did_not_lose_one() -> None:
    """A daemon: SIGHUP is an operator's there."""
    code = "from cluster.terminal import Terminal; raise SystemExit(Terminal().is_gone)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, check=False).returncode == 0


def test_under_nohup_a_lost_terminal_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what nohup is for."""
    has_terminal = True
    monkeypatch.setattr("cluster.terminal._has_terminal", lambda: has_terminal)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ignoring = Terminal()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        caring = Terminal()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not caring.is_gone
    has_terminal = False
    assert caring.is_gone
    assert not ignoring.is_gone
