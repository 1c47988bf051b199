"""How a child lives on when its supervisor was killed, until the next one takes it over, or for so long and no longer.

A thread watches, since the event loop may be busy, or blocked in a write to a pipe that nobody reads any more.  It
holds a reading end of its own process's standard output and error, so that a write never fails for want of a reader,
and makes room when they fill up; what is in them is read by the next supervisor.

The next supervisor is found by the report in the run directory, and watched like the first one: no child outlives a
dead supervisor for longer than it was told to.

Standard library alone: cluster/guard.py runs without anything else.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import stat
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cluster.birth import birth, can_hold, hold

VARIABLE = "FLOTILLA_OUTLIVE"
"""Environment variable of a child that may outlive its supervisor: `<seconds> <run directory>`."""

REPORT = "supervisor.json"
LOOK_S = 0.2
PIPE_BYTES = 2**20
"""What the pipes of an orphan should hold; Linux lets every user have that much (fs.pipe-max-size)."""


class Turn(StrEnum):
    """What became of the supervisor."""

    ALONE = "alone"
    ADOPTED = "adopted"
    OVER = "over"
    """Nobody came in time: the process shall end."""


@dataclass(frozen=True)
class Terms:
    """How long a child may live without a supervisor, and where the next one shows itself."""

    outlive_s: float
    run_dir: Path

    def __str__(self) -> str:
        return f"{self.outlive_s:g} {self.run_dir}"

    @classmethod
    def given(cls) -> Terms | None:
        """Return what the environment says, or None: this process ends with its supervisor.

        Not where a process cannot watch another one that is not its child (macOS): it could not find out that the next
        supervisor has died, too.
        """
        seconds, _, path = os.environ.get(VARIABLE, "").partition(" ")
        return cls(float(seconds), Path(path)) if path and float(seconds) and can_hold() else None


class Outliving:
    """Watches the lifeline `fd`; `tell` hears each turn of events, in a thread of ours."""

    def __init__(self, fd: int, terms: Terms, tell: Callable[[Turn], None]) -> None:
        self._fd = fd
        self._terms = terms
        self._tell = tell
        self._known = Supervisor(os.getppid(), birth(os.getppid()) or "")
        self._pipes = [pipe for pipe in map(_Pipe.of, (1, 2)) if pipe is not None]

    @property
    def lost_bytes(self) -> int:
        """What was dropped of our output, since nobody read it."""
        return sum(pipe.lost_bytes for pipe in self._pipes)

    def start(self) -> None:
        threading.Thread(target=self._run, name="outliving", daemon=True).start()

    def _run(self) -> None:
        watched = self._fd
        while True:
            _until_readable(watched)
            os.close(watched)
            self._tell(Turn.ALONE)
            if (found := self._successor()) is None:
                break
            watched = found
            self._tell(Turn.ADOPTED)
        self._tell(Turn.OVER)
        while True:
            # Whoever leaves still has something to say.
            self._make_room()
            time.sleep(LOOK_S)

    def _successor(self) -> int | None:
        """Wait for the next supervisor; return a descriptor of its process, or None if it does not come in time.

        Nor does it come for those that the report does not name (any more): nobody would find them.
        """
        for pipe in self._pipes:
            pipe.widen()
        deadline = time.monotonic() + self._terms.outlive_s
        while time.monotonic() < deadline:
            self._make_room()
            try:
                found = reported_supervisor(self._terms.run_dir)
            except OSError:
                # No descriptor is left just now, most likely: that is no reason to drop our clients.
                found = self._known
            if found is None:
                return None
            # The one that we knew may not be quite dead yet: its descriptors close first.
            if found != self._known and (descriptor := hold(found.pid, found.born)) is not None:
                self._known = found
                return descriptor
            time.sleep(LOOK_S)
        return None

    def _make_room(self) -> None:
        for pipe in self._pipes:
            pipe.make_room()


class Supervisor(NamedTuple):
    """A process that supervises, or did: see cluster/birth.py."""

    pid: int
    born: str


def reported_supervisor(run_dir: Path) -> Supervisor | None:
    """Return who says that it supervises this very process in the stack of `run_dir`: that one may be dead.

    None if nobody does.  Raises OSError: that cannot be read now.
    """
    try:
        report = json.loads((run_dir / REPORT).read_text(encoding="utf-8"))
        if all(child["pid"] != os.getpid() for child in report["children"]):
            return None
        return Supervisor(int(report["pid"]), str(report["birth"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        # The directory is gone, or a full disk cut the report short.
        return None


class _Pipe:
    """A pipe that this process writes to, seen from its other end."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self.lost_bytes = 0

    @classmethod
    def of(cls, fd: int) -> _Pipe | None:
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return cls(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            # Closed, or no /proc: there is nothing to keep open.
            return None
        return None

    def widen(self) -> None:
        try:
            fcntl.fcntl(self._reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            # This user's pipes have used up what all of them may have together; 64 KiB must do.
            return

    def make_room(self) -> None:
        """Drop the oldest quarter of a pipe that is more than half full."""
        size = fcntl.fcntl(self._reading, fcntl.F_GETPIPE_SZ)
        waiting = int.from_bytes(fcntl.ioctl(self._reading, termios.FIONREAD, bytes(4)), "little")
        if waiting > size // 2:
            try:
                self.lost_bytes += len(os.read(self._reading, size // 4))
            except BlockingIOError:
                # The next supervisor was faster, which is all the better.
                return


def _until_readable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
