"""A child whose supervisor was killed: it serves on, is taken over, or ends when its time is over.

The test is the supervisor that goes (it closes the lifeline), and other processes are the next ones.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.birth import birth
from cluster.outlive import VARIABLE, Terms
from cluster.rundir import SUPERVISOR, RunDir
from tests.support.stack import ROOT

CODE = """
import asyncio, sys
from cluster import lifecycle, logs
logs.set_up("child")
async def main(stopping):
    print("up", flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asking = asyncio.ensure_future(stopping.wait())
    while not stopping.is_set():
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.wait([reading, asking], return_when=asyncio.FIRST_COMPLETED)
        if reading.done() and (order := reading.result()):
            word, times = order.split()
            for _ in range(int(times)):
                print(word.decode(), flush=True)
            open(sys.argv[2], "a").write(f"printed {word.decode()}\\n")
        else:
            reading.cancel()
    return 7
sys.exit(lifecycle.run(main, lifeline_fd=int(sys.argv[1])))
"""


@dataclass
class Orphan:
    """A child that can be told to print, and whose supervisor can be taken away."""

    process: subprocess.Popen[str]
    directory: Path
    lifeline: int
    _supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def print(self, word: str, times: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word} {times}\n")
        self.process.stdin.flush()

    def until(self, part: str) -> str:
        """Read what it says up to a line with `part`."""
        assert self.process.stdout is not None
        said = ""
        while part not in said:
            line = self.process.stdout.readline()
            assert line, f"it ended without {part!r}: {said}"
            said += line
        return said

    def report(self, pid: int, *children: int) -> None:
        report = {"pid": pid, "birth": birth(pid), "children": [{"pid": child} for child in children]}
        RunDir(self.directory).publish(SUPERVISOR, report)

    def lose_supervisor(self) -> None:
        os.close(self.lifeline)
        self.lifeline = -1

    def get_supervisor(self, *, of: int | None = None) -> subprocess.Popen[bytes]:
        """Let another process supervise it, or rather the process `of`."""
        supervisor = subprocess.Popen(["sleep", "300"])
        self._supervisors.append(supervisor)
        self.report(supervisor.pid, of or self.process.pid)
        return supervisor

    def end(self) -> None:
        self.process.kill()
        for supervisor in self._supervisors:
            supervisor.kill()
            supervisor.wait()
        if self.lifeline != -1:
            os.close(self.lifeline)


@contextmanager
def orphan(directory: Path, outlive_s: float = 60.0) -> Iterator[Orphan]:
    """Run a child that may live `outlive_s` without a supervisor, which is this process at first."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, str(reading), str(directory / "done")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=os.environ | {VARIABLE: str(Terms(outlive_s, directory))},
        pass_fds=(reading,),
        text=True,
    ) as process:
        os.close(reading)
        running = Orphan(process, directory, writing)
        try:
            running.report(os.getpid(), process.pid)
            running.until("up")
            yield running
        finally:
            running.end()


def test_it_serves_on_until_the_next_supervisor_comes_and_watches_that_one_too(tmp_path: Path) -> None:
    """The time begins anew with each; when nobody comes it ends in order."""
    with orphan(tmp_path, outlive_s=1.0) as child:
        child.lose_supervisor()
        child.until("the supervisor is gone: serving on")
        child.print("still")
        child.until("still")
        supervisor = child.get_supervisor()
        child.until("taken over by another supervisor lost_output_bytes=0")
        with pytest.raises(subprocess.TimeoutExpired):
            child.process.wait(1.5)
        supervisor.kill()
        child.until("no other came in time")
        assert child.process.wait(20) == 7


@pytest.mark.parametrize("report", [None, "{", "[]", '{"children": [{"pid": 1}], "pid": 1, "birth": "x"}'])
def test_who_is_in_no_report_ends_at_once(tmp_path: Path, report: str | None) -> None:
    """No next supervisor would find it: killed before it was written down, on a full disk, without a directory."""
    with orphan(tmp_path) as child:
        file = tmp_path / f"{SUPERVISOR}.json"
        file.unlink()
        if report is not None:
            file.write_text(report, encoding="ascii")
        child.lose_supervisor()
        assert child.process.wait(20) == 7


def test_a_supervisor_that_does_not_name_it_is_not_its_own(tmp_path: Path) -> None:
    """It would be nobody's, for ever; so it does not even wait."""
    with orphan(tmp_path) as child:
        child.lose_supervisor()
        child.until("serving on")
        child.get_supervisor(of=1)
        assert "taken over" not in child.until("no other came in time")
        assert child.process.wait(20) == 7


def test_when_its_run_directory_is_removed_it_need_not_wait(tmp_path: Path) -> None:
    """Nobody can find it any more."""
    with orphan(tmp_path) as child:
        child.lose_supervisor()
        child.until("serving on")
        (tmp_path / f"{SUPERVISOR}.json").unlink()
        assert child.process.wait(20) == 7


def test_a_report_that_cannot_be_read_now_is_read_later(tmp_path: Path) -> None:
    """Out of descriptors: an orphan with many clients must not drop them for that."""
    with orphan(tmp_path) as child:
        limits = resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE)
        # The lifeline's descriptor is closed first, and must not be of use to it.
        resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, (1, limits[1]))
        child.lose_supervisor()
        child.until("serving on")
        child.get_supervisor()
        with pytest.raises(subprocess.TimeoutExpired):
            child.process.wait(1)
        resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, limits)
        child.until("taken over by another supervisor")


def test_without_leave_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    """outlive_supervisor_s: 0."""
    with orphan(tmp_path, outlive_s=0.0) as child:
        child.lose_supervisor()
        child.until("stopping: the supervisor is gone")
        assert child.process.wait(20) == 7


def test_whoever_reads_its_output_may_go_and_another_may_come(tmp_path: Path) -> None:
    """It never fails for want of a reader, and never waits for one; the newest lines are there for the next."""
    with orphan(tmp_path) as child:
        assert child.process.stdout is not None
        child.process.stdout.close()
        child.print("early")
        child.lose_supervisor()
        # 3 MB, where a pipe holds one at most.
        child.print("x" * 1000, 3000)
        child.print("latest")
        _until_written(tmp_path / "done", "printed latest")
        reading = open(f"/proc/{child.process.pid}/fd/1", encoding="ascii")  # noqa: SIM115
        child.process.stdout = reading
        child.get_supervisor()
        said = child.until("lost_output_bytes=")
        assert "early" not in said
        assert "latest" in said
        assert int(said.rpartition("=")[2]) > 10**6


def _until_written(file: Path, part: str) -> None:
    for _ in range(1000):
        if file.exists() and part in file.read_text(encoding="ascii"):
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"{file} has no {part!r}")
