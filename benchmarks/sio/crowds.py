"""Run the clients of `benchmarks/storm.py`, each crowd a process: those that are there, those that want in."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import BenchmarkError
from benchmarks.peers import environment, undisturbed
from benchmarks.sio.results import Steady, Stormed

ANSWER_S = 30.0
"""How much longer than it should take anything may take."""


class Crowd:
    """A process of clients."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def measured(self, seconds: float) -> Steady:
        """Have them measure for so long.  Raises BenchmarkError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._broken("they are gone") from None
        found = json.loads(self._line(seconds))
        return Steady(**found | {"dropped": tuple(found["dropped"])})

    def ended(self) -> Stormed:
        """Let the storm end, and return what became of it.  Raises BenchmarkError."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        found = json.loads(self._line(0.0))
        self._process.wait(ANSWER_S)
        return Stormed(**found | {"failed": tuple(found["failed"])})

    def await_open(self, within_s: float) -> None:
        """Wait until all are connected.  Raises BenchmarkError."""
        if self._line(within_s) != "open\n":
            raise self._broken("they cannot connect")

    def _line(self, within_s: float) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], within_s + ANSWER_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise self._broken(f"nothing within {within_s + ANSWER_S:g} s")
        return line

    def _broken(self, otherwise: str) -> BenchmarkError:
        self._process.kill()
        assert self._process.stderr is not None
        return BenchmarkError(f"the clients have failed: {self._process.stderr.read().strip() or otherwise}")


@contextmanager
def crowd(module: str, port: int, **options: float) -> Iterator[Crowd]:
    """Run clients until the block ends: benchmarks.sio.steady or benchmarks.sio.newcomers, with these options."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", f"{value:g}")]
    with undisturbed():
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.sio.{module}", "--port", str(port), *words],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C on the terminal is ours to handle.
            start_new_session=True,
        )
    with process:
        try:
            yield Crowd(process)
        finally:
            process.kill()
