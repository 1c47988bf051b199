"""A server under guard: signals reach it, and its end is the guard's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.guard import command


@contextmanager
def guarded(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python `code` under guard; the lifeline is its standard input."""
    argv = command(sys.executable, "-I", "-S", "-c", "import os, signal, sys\n" + code)
    with subprocess.Popen(
        [*argv, "--lifeline-fd", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


WAIT = "print('up', flush=True); signal.pause()"


def _up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("os.kill(os.getpid(), 15)", -15), ("os.abort()", -6)],
)
def test_it_ends_as_its_server_ends(code: str, status: int) -> None:
    """So that the supervisor says of it what happened to the server."""
    with guarded(code) as process:
        assert process.wait(20) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_server_to_end(number: signal.Signals) -> None:
    """In order: with SIGTERM, whichever it was."""
    with guarded("signal.signal(15, lambda *_: sys.exit(5))\n" + WAIT) as process:
        _up(process)
        process.send_signal(number)
        assert process.wait(20) == 5


def test_the_end_of_the_lifeline_ends_the_server() -> None:
    """At once, as the environment gives no time."""
    with guarded("signal.signal(15, lambda *_: sys.exit(6))\n" + WAIT) as process:
        _up(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 6


def test_a_program_that_cannot_be_run_is_one_readable_line() -> None:
    """It is the last line on standard error, which the supervisor shows as the reason."""
    lifeline, supervisor = os.pipe()
    try:
        argv = [*command("/nowhere/valkey-server"), "--lifeline-fd", str(lifeline)]
        ended = subprocess.run(argv, pass_fds=[lifeline], capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.close(lifeline)
        os.close(supervisor)
    assert (ended.returncode, ended.stderr) == (1, "/nowhere/valkey-server: No such file or directory\n")
