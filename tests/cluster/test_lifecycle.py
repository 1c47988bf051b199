"""How a process begins and ends: signals, lifeline, readiness, and what it says when it cannot go on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import lifecycle, logs
from cluster.errors import StartError, UsageError
from cluster.lifecycle import Stopped, unless
from tests.support.stack import ROOT


@contextmanager
def process(code: str, **options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `code`, which has `run` (cluster.lifecycle.run); it says `up` when signals may come."""
    preamble = (
        "import asyncio, os, signal, sys, time; from cluster import lifecycle, logs; from cluster.errors import *\n"
        "run = lifecycle.run\n"
        "def up(): print('up', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", preamble + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | options,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def _until_up(running: subprocess.Popen[str]) -> None:
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"


def _ended(code: str) -> tuple[int, str]:
    with process(code) as running:
        _, said = running.communicate(timeout=30)
        return running.returncode, said


_PATIENT = "async def main(stopping):\n    up(); await stopping.wait(); up(); await asyncio.sleep(60)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(number: signal.Signals) -> None:
    """`main` is told, and its status is the process's."""
    with process(
        "async def main(stopping):\n    up(); await stopping.wait(); return 7\nsys.exit(run(main))"
    ) as running:
        _until_up(running)
        running.send_signal(number)
        assert running.wait(timeout=30) == 7


def test_a_second_signal_ends_it_at_once() -> None:
    """Status 128 + n, as a shell shows it."""
    with process(_PATIENT + "sys.exit(run(main))") as running:
        for _ in range(2):
            _until_up(running)
            running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 128 + signal.SIGTERM


def test_a_process_may_do_something_at_the_second_signal_but_the_third_ends_it() -> None:
    """A supervisor kills its children first."""
    with process(_PATIENT + "sys.exit(run(main, on_second_signal=up))") as running:
        for _ in range(3):
            _until_up(running)
            running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 128 + signal.SIGINT


def test_the_end_of_the_lifeline_stops_it_like_a_signal() -> None:
    """However the supervisor died, its end is closed."""
    code = "async def main(stopping):\n    up(); await stopping.wait(); return 3\nsys.exit(run(main, lifeline_fd=0))"
    with process(code) as running:
        _until_up(running)
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(timeout=30) == 3


def test_a_supervised_process_is_not_hurried_by_a_second_signal() -> None:
    """systemd may signal the whole group, and the supervisor its children once more: they still drain."""
    code = _PATIENT.replace("asyncio.sleep(60)", "asyncio.sleep(0.2); return 5")
    with process(code + "sys.exit(run(main, lifeline_fd=0))") as running:
        for _ in range(2):
            _until_up(running)
            running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 5


@pytest.mark.parametrize(
    ("error", "status"), [("StartError('no Redis there')", 1), ("UsageError('no Redis there')", 2)]
)
@pytest.mark.parametrize("raised", ["raise {}", "raise BaseExceptionGroup('', [BaseExceptionGroup('', [{}]), {}])"])
def test_our_errors_are_one_readable_line_however_deep(error: str, status: int, raised: str) -> None:
    """A TaskGroup wraps what its tasks raise, and each task may fail for the same reason."""
    code = f"async def main(_):\n    {raised.replace('{}', error)}\nsys.exit(run(main))"
    assert _ended(code) == (status, "no Redis there\n")


def test_a_crashed_background_task_ends_the_process_loudly() -> None:
    """A traceback of the task in the log, and status 1 for the supervisor to see."""
    code = (
        "logs.set_up('test')\n"
        "async def crash(): raise ValueError('a bug')\n"
        "async def main(stopping):\n"
        "    async with asyncio.TaskGroup() as tasks:\n"
        "        tasks.create_task(crash()); await stopping.wait()\n"
        "sys.exit(run(main))"
    )
    status, said = _ended(code)
    assert status == 1
    assert "critical crashed error=ValueError" in said
    assert "ValueError: a bug" in said
    assert "ExceptionGroup" not in said


def test_a_mixture_of_errors_is_a_crash() -> None:
    """A bug is not hidden behind a readable line."""
    code = (
        "logs.set_up('test')\n"
        "async def main(_): raise ExceptionGroup('', [StartError('no Redis'), ValueError('a bug')])\n"
        "sys.exit(run(main))"
    )
    status, said = _ended(code)
    assert status == 1
    assert "a bug" in said
    assert "no Redis" in said


def test_sighup_lets_a_process_of_a_stack_follow_new_log_settings(tmp_path: Path) -> None:
    """The supervisor names the file in the environment."""
    file = tmp_path / "log.json"
    code = (
        "import logging; logs.set_up('n3000')\n"
        "async def main(stopping):\n"
        "    up()\n"
        "    while not logging.root.isEnabledFor(logging.DEBUG): await asyncio.sleep(0.01)\n"
        "    logging.debug('fine'); return 0\n"
        "sys.exit(run(main))"
    )
    with process(code, **{logs.FOLLOW: str(file)}) as running:
        _until_up(running)
        file.write_text(logs.share("debug", "json"), encoding="ascii")
        running.send_signal(signal.SIGHUP)
        _, said = running.communicate(timeout=30)
    lines = [json.loads(line) for line in said.splitlines()]
    assert ("debug", "n3000", "fine") in [(line["level"], line["process"], line["message"]) for line in lines]


def test_ready_is_said_once_and_the_descriptor_closed() -> None:
    """The supervisor reads a line, then end of file."""
    reading, writing = os.pipe()
    lifecycle.say_ready(writing)
    assert os.read(reading, 100) == b"ready\n"
    assert os.read(reading, 100) == b""
    os.close(reading)


def test_ready_without_anybody_to_tell_is_no_error() -> None:
    """Started by hand, or by a supervisor that died meanwhile."""
    lifecycle.say_ready(None)
    reading, writing = os.pipe()
    os.close(reading)
    lifecycle.say_ready(writing)
    os.close(writing)


def test_fail_ends_with_the_line_and_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    """For mistakes that are found before the event loop runs."""
    for error, status in ((StartError("in use"), 1), (UsageError("in use"), 2)):
        with pytest.raises(SystemExit) as raised:
            lifecycle.fail(error)
        assert raised.value.code == status
        assert capsys.readouterr().err == "in use\n"


def test_work_ends_when_the_process_shall_end() -> None:
    """It is cancelled, and cleans up, before `unless` raises Stopped."""

    async def main() -> None:
        stopping, cleaned = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                stopping.set()
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        with pytest.raises(Stopped):
            await unless(stopping, work())
        assert cleaned.is_set()

    asyncio.run(main())


def test_work_that_is_done_gives_its_result_and_its_errors() -> None:
    """As if it had been awaited, but for the group around an error."""

    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise StartError("no")

    async def main() -> None:
        assert await unless(asyncio.Event(), answer()) == 42
        with pytest.raises(ExceptionGroup) as raised:
            await unless(asyncio.Event(), fail())
        assert raised.group_contains(StartError)

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:], root.level = handlers, level
