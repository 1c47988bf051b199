"""A process of another parent is watched, asked to end, killed and read like one of our own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.birth import birth
from cluster.child import ChildState
from cluster.process import Survivor, kill_group
from cluster.rundir import SUPERVISOR, RunDir
from tests.support.children import SERVE, is_over, script, supervising
from tests.support.waiting import eventually

TALK = "import signal, sys\nprint('out', flush=True); sys.stderr.write('err\\n'); sys.stderr.flush()\nsignal.pause()"


@contextmanager
def stranger(code: str = TALK, **options: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is not started by a supervisor under test; its output goes to pipes."""
    argv = [sys.executable, "-I", "-S", "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(argv, start_new_session=True, stdout=pipes["stdout"], stderr=pipes["stderr"]) as process:
        try:
            yield process
        finally:
            process.kill()


def survivor(process: subprocess.Popen[bytes]) -> Survivor:
    held = Survivor.hold(process.pid, birth(process.pid) or "")
    assert held is not None
    return held


def test_a_survivor_is_a_child_like_others_and_its_successor_is_our_own(tmp_path: Path) -> None:
    """Its lines are shown, its probe says when it is ready, its death is noticed; its restarts are counted on."""

    async def main() -> None:
        with stranger() as process:
            async with supervising(tmp_path) as (supervisor, said):
                held = survivor(process)
                held.restarts = 4
                asked: list[bool] = []

                async def probe() -> bool:
                    asked.append(True)
                    return len(asked) > 1

                held.probe = probe
                child = supervisor.start(script(SERVE, "n3000"), held)
                assert (child.pid, child.is_adopted) == (process.pid, True), "known at once, before anything runs"
                await child.until(ChildState.READY)
                await eventually(lambda: {"n3000 | out", "n3000 | err"} <= set(said.read_text("utf-8").splitlines()))
                process.kill()
                await eventually(lambda: child.restarts == 5 and child.state is ChildState.READY)
                assert not child.is_adopted
                assert child.reason == "ended; its status went to the parent that it had: err"

    asyncio.run(main())


def test_it_is_asked_to_end_and_killed_if_it_does_not(tmp_path: Path) -> None:
    """With what it started."""
    code = (
        "import os, signal\nsignal.signal(15, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    signal.pause()\nprint(flush=True)\nwhile True: signal.pause()"
    )

    async def main() -> None:
        with stranger(code) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            async with supervising(tmp_path) as (supervisor, _):
                child = supervisor.start(script(SERVE, stop_within_s=0.2), survivor(process))
                await asyncio.sleep(0)
                await supervisor.stop(child)
                assert is_over(process.pid)
            # The pipe ends only when the grandchild has ended, too.
            assert process.stdout.read() == b""

    asyncio.run(main())


def test_one_that_is_asked_to_stop_before_it_was_looked_at_is_not_forgotten(tmp_path: Path) -> None:
    """A stop in the same breath."""

    async def main() -> None:
        with stranger() as process:
            async with supervising(tmp_path) as (supervisor, _):
                child = supervisor.start(script(SERVE), survivor(process))
                child.ask_to_stop()
                await child.until(ChildState.STOPPED)
                assert is_over(process.pid)
                assert child.restarts == 0

    asyncio.run(main())


def test_signals_to_one_that_has_ended_are_nothing() -> None:
    """Nor do they reach whoever has its pid by then."""
    with stranger() as process:
        held = survivor(process)
        process.kill()
        process.wait()
        held.send_signal(signal.SIGTERM)
        kill_group(held)
        assert held.has_ended
        held.close()


@pytest.mark.parametrize("options", [{"stdout": subprocess.DEVNULL}, {"stderr": subprocess.DEVNULL}])
def test_one_whose_output_is_no_pipe_is_only_not_shown(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It said what it says to somebody else before, too."""
    with stranger(**options) as process, ExitStack() as stack:
        held = survivor(process)
        assert held.outputs(stack) == []
        assert caplog.messages == ["lines of an adopted child are not shown"]
        held.close()


def test_the_output_of_one_that_has_ended_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """What is opened under its pid might be another process's."""
    caplog.set_level(logging.DEBUG)
    with stranger() as process, ExitStack() as stack:
        held = survivor(process)
        process.kill()
        process.wait()
        assert held.outputs(stack) == []
        assert caplog.messages == []
        held.close()


def test_a_child_is_in_the_report_as_soon_as_it_runs(tmp_path: Path) -> None:
    """Whoever takes over from a supervisor that is killed now must know of it."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = supervisor.start(script("signal.pause()"))
            await eventually(lambda: child.pid)
            report = RunDir(tmp_path).report(SUPERVISOR)
            assert report is not None
            (shown,) = report["children"]
            assert child.pid is not None
            assert (shown["pid"], shown["birth"], shown["state"]) == (child.pid, birth(child.pid), "starting")
            assert (report["pid"], report["birth"]) == (os.getpid(), birth(os.getpid()))

    asyncio.run(main())


def test_stopping_nobody_leaves_a_report_of_others_alone(tmp_path: Path) -> None:
    """A supervisor that fails before it has taken over must not make their children unknown."""

    async def main() -> None:
        RunDir(tmp_path).publish(SUPERVISOR, {"of": "another"})
        async with supervising(tmp_path) as (supervisor, _):
            await supervisor.stop()
        assert RunDir(tmp_path).report(SUPERVISOR) == {"of": "another"}

    asyncio.run(main())
