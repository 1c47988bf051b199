"""Children are kept running, ended in order, reported, and never lost: with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from cluster.child import Child, ChildState, End, Spec
from cluster.pipes import PipeReader, Pipes
from cluster.restart import RestartLimits
from cluster.rundir import SUPERVISOR, RunDir
from cluster.supervisor import Supervisor
from tests.support.children import SERVE, is_gone, script, supervising
from tests.support.waiting import eventually


def _lines(said: Path) -> list[str]:
    return said.read_text(encoding="utf-8").splitlines()


async def _ready(supervisor: Supervisor, spec: Spec) -> Child:
    child = supervisor.start(spec)
    async with asyncio.timeout(30):
        assert await child.until(ChildState.READY, ChildState.GIVEN_UP) is ChildState.READY
    return child


def _pid(child: Child) -> int:
    assert child.pid is not None
    return child.pid


def test_a_child_is_ready_when_it_says_so_and_its_lines_carry_its_name(tmp_path: Path) -> None:
    """Standard output and standard error both appear, line by line."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, said):
            code = f"print('to stdout', flush=True); print('to stderr', file=sys.stderr)\n{SERVE}"
            await _ready(supervisor, script(code, "n3000"))
            await eventually(lambda: {"n3000 | to stdout", "n3000 | to stderr"} <= set(_lines(said)))

    asyncio.run(main())


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """kill -9: another process, one restart more, and the report names it and why the one before ended."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = await _ready(supervisor, script(SERVE))
            first = _pid(child)
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: child.state is ChildState.READY and child.pid != first)
            assert is_gone(first)
            report = RunDir(tmp_path).report(SUPERVISOR)
            assert report is not None
            (shown,) = report["children"]
            assert report["pid"] == os.getpid()
            assert shown["pid"] == child.pid
            assert (shown["state"], shown["restarts"], shown["reason"]) == ("ready", 1, "killed by SIGKILL")

    asyncio.run(main())


def test_a_crash_loop_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    """Three deaths in the window are too many here; then it stays down, and the report says why."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = supervisor.start(script("sys.exit('no disk')"))
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)
            assert (child.restarts, child.pid, child.is_hopeless) == (2, None, False)
            assert child.reason == "ended with status 1: no disk"
            report = RunDir(tmp_path).report(SUPERVISOR)
            assert report is not None
            assert report["children"][0]["state"] == "given_up"

    asyncio.run(main())


def test_status_two_is_given_up_at_once_and_the_last_line_is_the_reason(tmp_path: Path) -> None:
    """It would fail the same way again: a wrong application, a wrong option."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            code = "print('on stdout'); sys.stderr.write('Traceback ...\\napp x:sio: no module x\\n'); sys.exit(2)"
            child = supervisor.start(script(code))
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)
            assert (child.reason, child.restarts, child.is_hopeless) == ("app x:sio: no module x", 0, True)

    asyncio.run(main())


def test_an_end_without_being_asked_is_a_death_even_with_status_zero(tmp_path: Path) -> None:
    """A child that simply ends is started again."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = supervisor.start(script("sys.exit(0)"))
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)
            assert child.reason == "ended with status 0"

    asyncio.run(main())


def test_a_planned_stop_is_not_a_death(tmp_path: Path) -> None:
    """It gets SIGTERM, ends in order, is reaped, and leaves the report."""

    async def main() -> None:
        ended: list[tuple[str, str]] = []

        async def on_end(child: Child, end: End) -> None:
            ended.append((child.name, end.reason))

        async with supervising(tmp_path, on_end=on_end) as (supervisor, said):
            code = "signal.signal(15, lambda *_: (print('bye', flush=True), os._exit(0)))\n" + SERVE
            child = await _ready(supervisor, script(code))
            pid = _pid(child)
            await supervisor.stop(child)
            assert child.state is ChildState.STOPPED
            assert is_gone(pid)
            assert ended == [("child", "ended with status 0")]
            assert child.policy.deaths(asyncio.get_running_loop().time()) == 0
            report = RunDir(tmp_path).report(SUPERVISOR)
            assert report is not None
            assert report["children"] == []
            await eventually(lambda: "child | bye" in _lines(said))

    asyncio.run(main())


def test_who_does_not_end_in_time_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """SIGKILL after `stop_within_s`, for its whole process group: a grandchild must not keep our port."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, said):
            code = (
                "signal.signal(15, signal.SIG_IGN)\n"
                "if (grandchild := os.fork()) == 0:\n    signal.pause()\n"
                "print(grandchild, flush=True)\n" + "say_ready()\nwhile True: signal.pause()"
            )
            child = await _ready(supervisor, script(code, stop_within_s=0.2))
            pid = _pid(child)
            line = await eventually(lambda: _lines(said))
            await supervisor.stop(child)
            assert is_gone(pid)
            grandchild = int(line[0].rpartition(" ")[2])
            await eventually(lambda: _has_ended(grandchild), what="the grandchild is gone")

    asyncio.run(main())


def _has_ended(pid: int) -> bool:
    """An orphan is reaped by whoever adopts it, which is not ours to wait for."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_hurry_kills_at_once(tmp_path: Path) -> None:
    """A second signal of the user: no SIGTERM, no waiting."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            code = "signal.signal(15, signal.SIG_IGN)\nsay_ready()\nwhile True: signal.pause()"
            child = await _ready(supervisor, script(code, stop_within_s=60))
            child.ask_to_stop()
            await child.until(ChildState.STOPPING)
            supervisor.hurry()
            async with asyncio.timeout(30):
                await child.until(ChildState.STOPPED)

    asyncio.run(main())


def test_a_stop_while_it_waits_for_its_next_start_takes_effect_at_once(tmp_path: Path) -> None:
    """Nobody waits out a backoff of an hour."""

    async def main() -> None:
        limits = RestartLimits(first_delay_s=3600, most_delay_s=3600, give_up_after=5, window_s=60)
        async with supervising(tmp_path, limits) as (supervisor, _):
            child = supervisor.start(script("sys.exit(1)"))
            async with asyncio.timeout(30):
                await child.until(ChildState.WAITING)
                await supervisor.stop(child)
            assert child.state is ChildState.STOPPED

    asyncio.run(main())


def test_the_lifeline_ends_with_the_supervisor_and_only_children_that_want_it_have_it(tmp_path: Path) -> None:
    """End of file arrives because nobody else holds the writing end: no neighbour inherited it."""

    async def main() -> None:
        reading, writing = os.pipe()
        async with supervising(tmp_path) as (supervisor, said):
            supervisor.lifeline_fd = reading
            watching = "say_ready()\nprint(f'ended {os.read(lifeline, 1)}', flush=True)\nsignal.pause()"
            await _ready(supervisor, script(watching, "first"))
            outliving = await _ready(supervisor, script(SERVE, "outliving", lifeline=False))
            await _ready(supervisor, script(SERVE, "second"))
            assert os.readlink(f"/proc/self/fd/{reading}") not in _open_files(_pid(outliving))
            assert not [line for line in _lines(said) if "ended" in line]
            os.close(writing)
            await eventually(
                lambda: [line for line in _lines(said) if line.startswith("first") and "ended b''" in line]
            )
        os.close(reading)

    asyncio.run(main())


def _open_files(pid: int) -> set[str]:
    return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}


def test_nothing_of_the_supervisor_but_what_is_passed_reaches_a_child(tmp_path: Path) -> None:
    """Standard streams, lifeline, ready descriptor, and the descriptors of its spec: no socket of anybody else."""

    async def main() -> None:
        passed, kept = os.open(os.devnull, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
        async with supervising(tmp_path) as (supervisor, _):
            child = await _ready(supervisor, script(SERVE, pass_fds=(passed,)))
            fds = {int(name) for name in os.listdir(f"/proc/{child.pid}/fd")}
            assert {0, 1, 2, passed, supervisor.lifeline_fd} <= fds
            assert len(fds) == 6
            assert kept not in fds
        os.close(passed)
        os.close(kept)

    asyncio.run(main())


def test_a_program_that_cannot_be_started_is_a_death_with_a_reason(tmp_path: Path) -> None:
    """It is tried again, as the fault may pass (no memory, no processes left), and then given up."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = supervisor.start(Spec(name="ghost", argv=(str(tmp_path / "no-such-program"),)))
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)
            assert child.reason == "cannot be started: No such file or directory"

    asyncio.run(main())


def test_a_process_whose_pipes_cannot_be_read_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors right after its start: it is killed and reaped, and that counts as a death."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):

            async def refuse(*_: object) -> None:
                pids.append(child.pid)
                raise OSError(24, "Too many open files")

            pids: list[int | None] = []
            monkeypatch.setattr(PipeReader, "connect", refuse)
            child = supervisor.start(script(SERVE))
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)
            assert child.reason == "cannot be started: Too many open files"
            assert len(pids) == 3
            assert all(pid is not None and is_gone(pid) for pid in pids)

    asyncio.run(main())


def test_without_descriptors_for_pipes_nothing_is_started_and_nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipes that were opened before the failure are closed again."""
    opened: list[int] = []
    real = os.pipe

    def pipe() -> tuple[int, int]:
        if opened:
            raise OSError(24, "Too many open files")
        opened.extend(real())
        return opened[0], opened[1]

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="Too many open files"):
        Pipes(ready=True)
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_two_may_ask_for_the_same_stop(tmp_path: Path) -> None:
    """A reload lets a worker drain when the whole stack is stopped."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = await _ready(supervisor, script(SERVE))
            await asyncio.gather(supervisor.stop(child), supervisor.stop(child))
            assert supervisor.children == []

    asyncio.run(main())


def test_a_probed_child_is_ready_when_its_probe_says_so(tmp_path: Path) -> None:
    """It gets no ready descriptor; that is for programs of others, such as Redis."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, said):
            answers = iter([False, False, True])

            async def probe() -> bool:
                return next(answers)

            child = await _ready(supervisor, script("print(options)\nsignal.pause()", lifeline=False, probe=probe))
            await supervisor.stop(child)
            assert next(answers, "asked until true") == "asked until true"
            assert _lines(said) in ([], ["child | {}"])

    asyncio.run(main())


def test_a_grandchild_that_holds_the_pipes_does_not_hold_up_a_restart(tmp_path: Path) -> None:
    """The application may start daemons; its own death is noticed all the same."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, said):
            code = (
                "if not (grandchild := os.fork()):\n    os.setsid(); signal.pause()\n"
                "print(grandchild, flush=True)\n" + SERVE
            )
            child = await _ready(supervisor, script(code))
            first = _pid(child)
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: child.state is ChildState.READY and child.pid != first)
            await supervisor.stop(child)
            for line in await eventually(lambda: [text for text in _lines(said) if "killed" not in text]):
                os.kill(int(line.rpartition(" ")[2]), signal.SIGKILL)

    asyncio.run(main())


def test_other_restart_limits_apply_to_children_that_run(tmp_path: Path) -> None:
    """After a reload the next death counts by the new limits."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            child = await _ready(supervisor, script(SERVE))
            supervisor.apply(RestartLimits(give_up_after=1))
            os.kill(_pid(child), signal.SIGKILL)
            async with asyncio.timeout(30):
                await child.until(ChildState.GIVEN_UP)

    asyncio.run(main())


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """The run directory's disk is full or gone: children go on."""

    async def main() -> None:
        async with supervising(tmp_path) as (supervisor, _):
            supervisor.run_dir = RunDir(tmp_path / "gone")
            await _ready(supervisor, script(SERVE))

    asyncio.run(main())


def test_when_the_supervisors_tasks_are_cancelled_no_process_is_left(tmp_path: Path) -> None:
    """A crash of anything else in the same process takes the children along, killed and reaped."""

    async def main() -> None:
        pids: list[int] = []

        async def crash() -> None:
            async with supervising(tmp_path) as (supervisor, _):
                pids.append(_pid(await _ready(supervisor, script(SERVE))))
                supervisor.tasks.create_task(_raise())
                await asyncio.Event().wait()

        try:
            await crash()
        except* ZeroDivisionError:
            pass
        assert is_gone(pids[0])

    asyncio.run(main())


async def _raise() -> None:
    raise ZeroDivisionError
