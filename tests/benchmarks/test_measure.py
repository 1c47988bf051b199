"""What is read from /proc is what the processes did."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import (
    BenchmarkError,
    Spread,
    allow_descriptors,
    balancer_of,
    cpu_s,
    family,
    machine,
    memory,
    version_of,
)


@contextmanager
def child(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_family_is_a_process_with_children_and_grandchildren() -> None:
    """A supervisor's workers count, and theirs."""
    script = (
        "import subprocess, sys\n"
        "subprocess.run(['sh', '-c', 'sleep 60 & echo $$ $!; read _; kill $!'], stdin=sys.stdin)"
    )
    with child(sys.executable, "-c", script) as process:
        assert process.stdout is not None
        shell, sleep = map(int, process.stdout.readline().split())
        assert family(process.pid) == [process.pid, shell, sleep]
        process.communicate("end\n")


def test_a_balancer_is_its_family_without_the_node() -> None:
    """Which its supervisor may have started."""
    with child(sys.executable, "-c", "import subprocess; subprocess.run(['sh', '-c', 'echo $$; read _'])") as process:
        assert process.stdout is not None
        node = int(process.stdout.readline())
        assert balancer_of(process.pid, node) == [process.pid]
        assert balancer_of(process.pid, None) == [process.pid, node]
        assert balancer_of(process.pid, os.getpid()) == []
        process.communicate("end\n")


def test_cpu_time_is_what_was_used_and_survives_an_odd_name(tmp_path: Path) -> None:
    """Field 2 of /proc/PID/stat is the command, and may hold what looks like the end of it."""
    odd = tmp_path / "a) R 1 (b"
    shutil.copy(shutil.which("sh") or "/bin/sh", odd)
    with child(odd, "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read _") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.001 <= cpu_s([process.pid]) < 10
        assert family(process.pid) == [process.pid]


def test_memory_grows_with_what_a_process_holds() -> None:
    """128 MiB more are seen as 128 MiB more, in RSS and, whoever shares the interpreter's own pages, in PSS."""
    with child(
        sys.executable, "-c", "print(flush=True); input(); x = b'x' * 2**27; print(flush=True); input()"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = memory([process.pid])
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        after = memory([process.pid])
    assert after.pss_kib - before.pss_kib == pytest.approx(128 * 1024, rel=0.1)
    assert after.rss_kib - before.rss_kib == pytest.approx(128 * 1024, rel=0.1)


@pytest.mark.parametrize("read", [family, lambda pid: cpu_s([pid]), lambda pid: memory([pid])])
def test_a_process_that_is_gone_is_an_error_that_says_so(read: object) -> None:
    """A peer that died in the middle must not count as one that costs nothing."""
    with child("true") as process:
        process.wait()
    assert callable(read)
    with pytest.raises(BenchmarkError, match=rf"{process.pid}.* (cannot be read|is gone)"):
        read(process.pid)


def test_a_spread_is_median_and_extremes() -> None:
    """Of an odd and of an even number of rounds."""
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_a_figure_comes_with_machine_versions_commit_and_date() -> None:
    """Without them it is worthless."""
    facts = machine()
    assert set(facts) == {"date", "machine", "python", "commit"}
    assert all(facts.values())


def test_without_git_the_installed_version_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A source archive has no commit."""
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    assert machine()["commit"].startswith("not a git checkout; flotilla ")


def test_descriptors_beyond_the_hard_limit_are_refused() -> None:
    """Before anything is started, with the numbers."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(BenchmarkError, match=f"{hard + 1} open files are needed and {hard} are allowed"):
        allow_descriptors(hard + 1)


def test_descriptors_are_raised_to_the_hard_limit() -> None:
    """The balancers inherit it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        allow_descriptors(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no /proc to read."""
    measure.check_platform()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BenchmarkError, match="darwin"):
        measure.check_platform()


def test_a_program_that_is_not_there_has_no_version() -> None:
    """One readable line."""
    assert version_of([sys.executable, "--version"]).startswith("Python 3")
    with pytest.raises(BenchmarkError, match="/nowhere/nginx cannot be started: No such file"):
        version_of(["/nowhere/nginx", "-v"])


def test_the_event_loop_is_uvloop_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asyncio's own elsewhere: the benchmark runs in both cases, and its head says which."""
    for is_installed, expected in ((True, "uvloop"), (False, "asyncio")):
        if not is_installed:
            monkeypatch.setitem(sys.modules, "uvloop", None)
        loop = measure.new_event_loop()
        loop.close()
        assert type(loop).__module__.startswith(expected) or os.name != "posix"
