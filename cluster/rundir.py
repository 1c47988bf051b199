"""The private directory of one running stack: sockets, the resolved configuration, and small JSON reports.

It has mode 0700 and lies in a base of the same mode, so that only our own user reaches the sockets in it (and the
embedded Redis behind one of them).  The supervisor holds a lock on it for as long as it lives (flock on the directory
itself), so that whoever comes later can tell the directories of the dead.  Who outlived one goes on in its directory,
and so does the next supervisor that takes them over: all paths stay as they are.

Reports are how processes of one stack show each other their state without talking: each writes its own file whole, and
whoever is asked reads them all.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import StartError

log = logging.getLogger(__name__)

SUPERVISOR = "supervisor"
"""Report of the supervisor: {"pid", "birth", "children": [{"name", "kind", "pid", "birth", "state", "restarts", …}]}.

`kind` is redis, node (with its `port`) or worker; `state` is one of cluster/child.py; `birth` is when the process began
(cluster/birth.py), so that a pid that was used again is not mistaken for it.  By it the next supervisor finds who still
runs, and who still runs finds the next supervisor."""

WORKER = "worker-"
"""Prefix of the report of each balancer worker; see lb/reports.py."""

MOST_BASE_BYTES = 64
"""A base longer than this would leave no room for the sockets: a unix socket's path has at most 107 bytes (unix(7))."""


@dataclass(frozen=True)
class RunDir:
    """A run directory that exists."""

    path: Path

    def socket(self, name: str) -> Path:
        """Return the path of the unix socket `name`; a socket's path may have at most 107 bytes (unix(7))."""
        return self.path / f"{name}.sock"

    def publish(self, name: str, report: Mapping[str, Any]) -> None:
        """Replace the report `name` whole: a reader sees the old one or the new one.  Raises OSError (disk full)."""
        draft = self.path / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(report), encoding="utf-8")
        draft.replace(self._file(name))

    def report(self, name: str) -> dict[str, Any] | None:
        """Return the report `name`, or None if there is none."""
        try:
            text = self._file(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        value: dict[str, Any] = json.loads(text)
        return value

    def reports(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return all reports whose name begins with `prefix`."""
        found = {}
        for file in sorted(self.path.glob(f"{prefix}*.json")):
            if (report := self.report(file.stem)) is not None:
                found[file.stem] = report
        return found

    def forget(self, name: str) -> None:
        """Take the report `name` away, if it is there."""
        self._file(name).unlink(missing_ok=True)

    def write_private(self, name: str, text: str) -> Path:
        """Write the file `name` so that only we can read it (0600), and return its path.  Raises OSError."""
        file = self.path / name
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
        return file

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"


def base_directory() -> Path:
    """Return the directory that holds all run directories of this user, and make it if need be.

    It is `flotilla` in XDG_RUNTIME_DIR, else `flotilla-<uid>` in the directory for temporary files.  Everybody may
    write to the latter, so what stands there already is used only if it is a directory of our own (no symbolic link);
    other users' rights on it are taken away.  Raises StartError.
    """
    base = _chosen_base()
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StartError(f"{base} is not a directory of this user: somebody else may have made it; remove it")
        if stat.S_IMODE(found.st_mode) != 0o700:
            base.chmod(0o700)
    except OSError as exc:
        raise StartError(f"{base}: cannot be used for sockets: {exc.strerror}") from None
    return base


def _chosen_base() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(runtime) / "flotilla"] if os.path.isabs(runtime) and Path(runtime).is_dir() else []
    candidates += [Path(parent) / f"flotilla-{os.geteuid()}" for parent in (tempfile.gettempdir(), "/tmp")]
    for base in candidates:
        if len(os.fsencode(base)) <= MOST_BASE_BYTES:
            return base
    raise StartError(f"{candidates[0]}: too long for the path of a unix socket; set XDG_RUNTIME_DIR to a shorter one")


@contextmanager
def starting_up(base: Path) -> Iterator[None]:
    """Be the only supervisor of this user that looks for the directories of the dead, takes one over, or makes its own.

    Waits for the others: two that start at once must not take over the same nodes.
    """
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another supervisor that is starting", extra={"directory": str(base)})
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def run_directory(
    base: Path, inherited: RunDir | None = None, keep: Callable[[RunDir], bool] = lambda _: False
) -> Iterator[RunDir]:
    """Hold a new run directory in `base`, or an `inherited` one, locked while we live.

    Nothing of it is left afterwards, unless `keep` says that somebody needs it.  Enter it while `starting_up`.  Raises
    StartError.
    """
    run_dir = inherited or RunDir(base / secrets.token_hex(4))
    try:
        if inherited is None:
            run_dir.path.mkdir(mode=0o700)
        fd = os.open(run_dir.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise StartError(f"{run_dir.path}: cannot be made: {exc.strerror}") from None
    try:
        yield run_dir
    finally:
        if not keep(run_dir):
            shutil.rmtree(run_dir.path, ignore_errors=True)
        os.close(fd)


def dead_directories(base: Path) -> list[RunDir]:
    """Return the run directories in `base` whose supervisor is no more (it held the lock for as long as it lived).

    Ask while `starting_up`.
    """
    return [RunDir(path) for path in sorted(base.iterdir()) if path.is_dir() and not _is_locked(path)]


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        # It went away while we looked.
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
