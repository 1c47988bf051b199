"""What a dead supervisor left is ended only if it is ours, alive, and in the way.  (Whole stacks: tests/faults.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import embedded, leftovers
from cluster.birth import birth
from cluster.leftovers import Estate, estates, is_inhabited, vacate
from cluster.rundir import RunDir, run_directory
from tests.support.commands import runtime_directory


@pytest.fixture
def base() -> Iterator[Path]:
    with runtime_directory() as directory:
        yield directory


@pytest.fixture
def dead(base: Path) -> RunDir:
    """A run directory whose supervisor is no more."""
    path = base / "0123abcd"
    path.mkdir(mode=0o700)
    return RunDir(path)


@contextmanager
def sleeper(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that lives until it is ended."""
    argv = command or (sys.executable, "-I", "-S", "-c", "import signal; print(flush=True); signal.pause()")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, **options) as process:
        try:
            if not command:
                assert process.stdout is not None
                process.stdout.readline()
            yield process
        finally:
            process.kill()


def _report(run_dir: RunDir, pid: int, **more: Any) -> None:
    child = {
        "name": "n3000",
        "kind": "node",
        "pid": pid,
        "birth": birth(pid),
        "outlives": True,
        "stop_within_s": 5.0,
        "ports": [3000],
    }
    run_dir.publish("supervisor", {"children": [child | more]})


def clear(base: Path, ports: set[int]) -> None:
    for estate in estates(base):
        leftovers.clear(estate, ports)


def test_a_directory_of_the_living_is_left_alone(base: Path) -> None:
    """Its supervisor holds the lock."""
    with run_directory(base) as run_dir:
        clear(base, {3000})
        assert run_dir.path.exists()


def test_a_directory_without_anybody_is_removed(base: Path, dead: RunDir) -> None:
    """With its sockets, reports and configurations."""
    (dead.path / "valkey.sock").touch()
    clear(base, set())
    assert list(base.iterdir()) == []


def test_an_orphaned_redis_is_ended(base: Path, dead: RunDir) -> None:
    """Where there is no parent-death signal it outlives its guard."""
    argv = embedded.spec(embedded.binary(), dead).argv
    with sleeper(*argv[argv.index(str(embedded.binary())) :]) as process:
        _until((dead.path / embedded.PID_FILE).exists)
        clear(base, set())
        assert process.wait(timeout=30) == 0
    assert not dead.path.exists()


def _until(question: Any) -> None:
    deadline = time.monotonic() + 30
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("content", ["{pid}", "999999999", "nonsense", ""])
def test_a_pid_file_that_names_somebody_else_harms_nobody(base: Path, dead: RunDir, content: str) -> None:
    """The pid was used again: that process works elsewhere."""
    with sleeper() as process:
        (dead.path / embedded.PID_FILE).write_text(content.format(pid=process.pid), encoding="ascii")
        clear(base, set())
        assert process.poll() is None
    assert not dead.path.exists()


def test_a_node_that_outlived_its_supervisor_is_stopped_when_its_port_is_needed(base: Path, dead: RunDir) -> None:
    """With SIGTERM, so that its clients are told."""
    code = "import os, signal; signal.signal(15, lambda *_: os.write(1, b'asked')); print(flush=True); signal.pause()"
    with sleeper(sys.executable, "-I", "-S", "-c", code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _report(dead, process.pid)
        clear(base, {3000})
        assert process.stdout.read() == b"asked"
    assert not dead.path.exists()


def test_one_that_holds_no_port_of_ours_is_left_alone(base: Path, dead: RunDir) -> None:
    """And so is its directory: its sockets are there."""
    with sleeper() as process:
        _report(dead, process.pid)
        clear(base, {8080})
        assert process.poll() is None
        assert dead.path.exists()


def test_one_that_does_not_stop_is_killed(base: Path, dead: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    """After the time that its supervisor would have given it."""
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True)\nwhile True: signal.pause()"
    argv = (sys.executable, "-I", "-S", "-c", code)
    with sleeper(*argv) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _report(dead, process.pid, stop_within_s=0.2)
        clear(base, {3000})
        assert process.stdout.read() == b""
    assert "process of a dead supervisor killed" in caplog.text


def test_one_that_ends_by_itself_is_waited_for_not_signalled(base: Path, dead: RunDir) -> None:
    """It is stopping already; here it takes half a second."""
    with sleeper(sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.5)") as process:
        _report(dead, process.pid, outlives=False)
        clear(base, {3000})
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("born", ["", "another-boot/1", None])
def test_a_pid_that_was_used_again_is_not_mistaken(base: Path, dead: RunDir, born: str | None) -> None:
    """A process has its pid and the time of its start."""
    with sleeper() as process:
        _report(dead, process.pid, birth=born)
        clear(base, {3000})
        assert process.poll() is None
    assert not dead.path.exists()


@pytest.mark.parametrize(
    "report",
    [
        "{",
        json.dumps({"children": [{"name": "n3000", "pid": None, "birth": None}]}),
        "{}",
        "[]",
        '{"children": [{"pid": 1}]}',
    ],
)
def test_a_report_that_says_nothing_useful_is_no_obstacle(base: Path, dead: RunDir, report: str) -> None:
    """Cut short by a full disk, or from the moment before anything ran."""
    (dead.path / "supervisor.json").write_text(report, encoding="ascii")
    clear(base, {3000})
    assert not dead.path.exists()


def test_children_that_are_gone_count_for_nothing(base: Path, dead: RunDir) -> None:
    """The common case: all ended with their supervisor."""
    with sleeper() as process:
        _report(dead, process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        clear(base, {3000})
    assert not dead.path.exists()


def test_a_directory_is_inhabited_while_somebody_in_its_report_runs(dead: RunDir) -> None:
    """Then a supervisor that could not come up leaves it as it is."""
    assert not is_inhabited(dead)
    with sleeper() as process:
        _report(dead, process.pid)
        assert is_inhabited(dead)
    assert not is_inhabited(dead)


def test_workers_get_the_time_to_let_go_of_their_sockets(dead: RunDir) -> None:
    """And are left alone when they have: they drain."""
    with sleeper() as process:
        _report(dead, process.pid, kind="worker")
        answers = iter([False, False, True])
        vacate(Estate.of(dead), lambda: next(answers))
        assert next(answers, None) is None
        assert process.poll() is None


def test_a_worker_that_hangs_is_killed_for_its_sockets(dead: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: it would hold them for ever."""
    monkeypatch.setattr(leftovers, "LET_GO_S", 0.1)
    with sleeper() as process:
        process.send_signal(signal.SIGSTOP)
        _report(dead, process.pid, kind="worker")
        vacate(Estate.of(dead), lambda: False)
        assert process.poll() is not None


def test_redis_is_left_to_nodes_that_go_on(base: Path, dead: RunDir) -> None:
    """Another stack's, that waits for its next supervisor; without them it ends."""
    with sleeper() as redis:
        with sleeper() as node:
            _report(dead, node.pid)
            report = dead.report("supervisor")
            assert report is not None
            shown = {"name": "valkey", "kind": "redis", "pid": redis.pid, "birth": birth(redis.pid), "outlives": True}
            dead.publish("supervisor", {"children": [*report["children"], shown | {"stop_within_s": 5.0}]})
            clear(base, {8080})
            assert redis.poll() is None
        clear(base, {8080})
        assert redis.poll() is not None
    assert not dead.path.exists()
