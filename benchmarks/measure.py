"""What a benchmark reads from the system: CPU time and memory of processes (proc(5)), and on which machine it ran."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_CPUCLOCK_SCHED = 2
"""Of a process: what the scheduler has counted for all its threads (linux/posix-timers_types.h)."""


class BenchmarkError(Exception):
    """The benchmark cannot run or its result means nothing; the text is for the user."""


@dataclass(frozen=True)
class Memory:
    """Memory of some processes in KiB.  PSS counts a shared page in parts, RSS counts it whole in each process."""

    pss_kib: int
    rss_kib: int


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def family(pid: int) -> list[int]:
    """Return `pid` and all its descendants.  Raises BenchmarkError if there is no such process."""
    _proc(pid, "stat")
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_after_command(int(entry.name))[1]), []).append(int(entry.name))
            except BenchmarkError:
                continue  # it ended meanwhile, so it is nobody's child
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def balancer_of(pid: int, node_pid: int | None) -> list[int]:
    """Return `pid` and its descendants, without those that are the node's: what a balancer consists of."""
    node = set(family(node_pid)) if node_pid else set()
    return [each for each in family(pid) if each not in node]


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time, user + system, that these processes have used; to the nanosecond where the kernel counts so.

    Raises BenchmarkError if one is gone.
    """
    return sum(_cpu_ns(pid) for pid in pids) / 1e9


def memory(pids: Sequence[int]) -> Memory:
    """Return the memory of these processes.  Raises BenchmarkError if one is gone."""
    fields: dict[str, int] = {"Pss": 0, "Rss": 0}
    for pid in pids:
        for line in _proc(pid, "smaps_rollup").splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                fields[name] += int(value.split()[0])
    return Memory(fields["Pss"], fields["Rss"])


def reset_peaks(pids: Sequence[int]) -> None:
    """Forget how much memory these processes had at most, so that `peak_kib` begins anew.  Raises BenchmarkError."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        except OSError as exc:
            raise BenchmarkError(f"/proc/{pid}/clear_refs cannot be written: {exc.strerror}") from None


def peak_kib(pids: Sequence[int]) -> int:
    """Return how much memory (RSS, KiB) these processes had at most, each by itself.  Raises BenchmarkError."""
    return sum(
        int(line.split()[1]) for pid in pids for line in _proc(pid, "status").splitlines() if line.startswith("VmHWM")
    )


def machine() -> dict[str, str]:
    """Return what a figure is worthless without: machine, versions, commit, date."""
    models = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{len(os.sched_getaffinity(0))} × {model}, {platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, uvloop {_version('uvloop')}, aiohttp {_version('aiohttp')}",
        "commit": _commit(),
    }


def version_of(command: Sequence[str], line: int = -1) -> str:
    """Return one line, the last if not said otherwise, of what a program's version option prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as exc:
        raise BenchmarkError(f"{command[0]} cannot be started: {exc.strerror}") from None
    return (done.stdout + done.stderr).strip().split("\n")[line]


def allow_descriptors(needed: int) -> None:
    """Let this process, and those that it starts, open `needed` files each.  Raises BenchmarkError if they may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard:
        raise BenchmarkError(
            f"{needed} open files are needed and {hard} are allowed; use fewer connections, or raise ulimit -Hn"
        )
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_descriptors() -> int:
    """Return how many files a process may have open at most (the hard limit)."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory()


def check_platform() -> None:
    """Raise BenchmarkError where there is no proc(5) to read."""
    if sys.platform != "linux":
        raise BenchmarkError(f"CPU time and memory are read from /proc, which {sys.platform} does not have; use Linux")


def _cpu_ns(pid: int) -> int:
    # clock_getcpuclockid(3), which Python lacks: the number of the clock is made from the pid.  /proc/PID/stat counts
    # in ticks of 10 ms, too coarse for what costs next to nothing.
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        raise BenchmarkError(f"process {pid} has no CPU time to read: it is gone") from None


def _after_command(pid: int) -> list[str]:
    # From field 3 on: the command in field 2 may hold spaces and parentheses.
    return _proc(pid, "stat").rpartition(")")[2].split()


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise BenchmarkError(f"/proc/{pid}/{name} cannot be read: {exc.strerror}") from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" and uncommitted changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return f"not a git checkout; flotilla {_version('flotilla')}"
