"""One process is told from every other of its pid, and held so that nothing else can be meant by it."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator

import pytest

from cluster import birth as births
from cluster.birth import birth, can_hold, has_ended, hold


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


def _born(pid: int) -> str:
    born = birth(pid)
    assert born is not None
    return born


def test_a_process_is_born_once(sleeper: subprocess.Popen[bytes]) -> None:
    """Whoever asks and whenever; another process was born at another time."""
    assert _born(sleeper.pid) == _born(sleeper.pid)
    assert _born(sleeper.pid) != _born(os.getpid())


def test_who_is_no_more_was_never_born(sleeper: subprocess.Popen[bytes]) -> None:
    """Its pid may be anybody's."""
    sleeper.kill()
    sleeper.wait()
    assert birth(sleeper.pid) is None


def test_elsewhere_psutil_knows(monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]) -> None:
    """macOS has no /proc."""
    monkeypatch.setattr("sys.platform", "darwin")
    assert birth(sleeper.pid) == birth(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert birth(sleeper.pid) is None


def test_a_process_that_is_held_tells_when_it_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    """Also before anybody has reaped it."""
    descriptor = hold(sleeper.pid, _born(sleeper.pid))
    assert descriptor is not None
    assert not has_ended(descriptor)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(descriptor)
    assert hold(sleeper.pid, _born(sleeper.pid)) is None, "a zombie is no more"
    os.close(descriptor)


def test_another_process_of_that_pid_is_not_held(sleeper: subprocess.Popen[bytes]) -> None:
    """And no descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    assert hold(sleeper.pid, "another-boot/1") is None
    assert hold(2**22 + 1, "another-boot/1") is None
    assert os.listdir("/proc/self/fd") == before


def test_a_system_that_cannot_hold_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS, or a filter of system calls."""
    assert can_hold()

    def refuse(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert not can_hold()
    monkeypatch.delattr(os, "pidfd_open")
    assert not can_hold()
    assert hold(os.getpid(), _born(os.getpid())) is None


def test_without_descriptors_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes on without, as if the process were gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    born = _born(os.getpid())
    monkeypatch.setattr(births, "can_hold", lambda: True)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        assert hold(os.getpid(), born) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
