"""What a stack runs: the command line of each worker and each node.

Children read the *resolved* configuration in the run directory, never the user's file, which may have changed
meanwhile.  Each resolved file stays as it is: a child that is started again runs what it ran before, also in the middle
of a reload.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cluster import logs
from cluster.birth import can_hold
from cluster.child import Spec
from cluster.config import AUTO, MOST_WORKERS, Config, Endpoint, Lb
from cluster.config_file import written
from cluster.host import slot_name, usable_cpus
from cluster.listening import listen
from cluster.outlive import VARIABLE, Terms
from cluster.rundir import RunDir
from cluster.version import version
from lb.kept import Kept

STOP_MARGIN_S = 5.0
"""What a child gets beyond its drain time before it is killed."""


@dataclass(frozen=True)
class Doors:
    """What the supervisor holds and its workers inherit: the listening sockets, and what TLS on them needs."""

    public: socket.socket
    admin: socket.socket
    redirect: socket.socket | None = None
    """Plain HTTP that leads to https."""
    kept: Kept | None = None
    """The certificates of a worker that finds none in their files."""

    @classmethod
    def open(cls, lb: Lb, base: Path) -> Doors:
        """Listen where `lb` says, with the certificates that it names, from `base` on.  Raises StartError."""
        with ExitStack() as opened:
            public = opened.enter_context(listen(lb.listen, "lb.listen"))
            admin = opened.enter_context(listen(lb.admin, "lb.admin"))
            plain = lb.tls.redirect
            redirect = opened.enter_context(listen(plain, "lb.tls.redirect")) if plain else None
            kept = Kept.of(lb.tls, base)
            opened.pop_all()
            return cls(public, admin, redirect, kept)

    @property
    def sockets(self) -> list[socket.socket]:
        return [self.public, self.admin, *([self.redirect] if self.redirect else [])]

    @property
    def held(self) -> dict[str, socket.socket | Kept]:
        """What a worker is given, by the name of the option that says so."""
        found: dict[str, socket.socket | Kept | None] = {
            "--listen-fd": self.public,
            "--admin-fd": self.admin,
            "--redirect-fd": self.redirect,
            "--certificates-fd": self.kept,
        }
        return {option: each for option, each in found.items() if each is not None}

    @property
    def listen(self) -> Endpoint:
        """Where clients come in: the configured port may be 0."""
        return _endpoint(self.public)

    @property
    def admin_at(self) -> Endpoint:
        return _endpoint(self.admin)

    @property
    def redirects_at(self) -> Endpoint | None:
        return _endpoint(self.redirect) if self.redirect else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self.held.values():
            each.close()


@dataclass(frozen=True)
class Roster:
    """The children that one resolved configuration asks for."""

    config: Config
    base: Path
    """Directory of the user's file: modules are found beside it."""
    run_dir: RunDir
    file: Path
    """The resolved configuration."""

    @classmethod
    def write(cls, config: Config, base: Path, run_dir: RunDir, number: int) -> Self:
        """Write `config`, which must be resolved, for its children to read.  Raises OSError."""
        return cls(config, base, run_dir, run_dir.write_private(_file_name(number), written(config)))

    @classmethod
    def write_next(cls, config: Config, base: Path, run_dir: RunDir) -> Self:
        """As `write`, beside all that stands there already: nodes that were taken over run with one of those."""
        number = 0
        while (run_dir.path / _file_name(number)).exists():
            number += 1
        return cls.write(config, base, run_dir, number)

    @property
    def log_file(self) -> Path:
        """What children follow to learn the log settings of a reload."""
        return self.run_dir.path / "log.json"

    @property
    def worker_count(self) -> int:
        return worker_count(self.config.lb)

    def node_name(self, port: int) -> str:
        return slot_name(port, private_redis=self.config.has_private_redis)

    def worker(self, index: int, doors: Doors) -> Spec:
        """Return how to run the balancer worker `index`, which accepts at `doors`."""
        fds = {option: each.fileno() for option, each in doors.held.items()}
        return Spec(
            name=f"worker-{index}",
            argv=self._command("lb", "worker", {"--index": index, **fds}),
            env=self._env(),
            pass_fds=tuple(fds.values()),
            stop_within_s=self.config.lb.drain_s + STOP_MARGIN_S,
            facts={"kind": "worker", "ports": [_endpoint(each).port for each in doors.sockets]},
        )

    def node(self, port: int) -> Spec:
        """Return how to run the node on `port`."""
        nodes = self.config.nodes
        name = self.node_name(port)
        return Spec(
            name=name,
            argv=self._command("node", None, {"--port": port, "--name": name}),
            env=self._env() | {VARIABLE: str(Terms(self.outlive_s, self.run_dir.path))},
            outlive_s=self.outlive_s,
            stop_within_s=nodes.drain_s + STOP_MARGIN_S,
            facts={
                "kind": "node",
                "port": port,
                "ports": [port],
                # By these the next supervisor sees whether it runs as it should.
                "config": str(self.file),
                "base": str(self.base),
                "version": version(),
            },
        )

    @property
    def outlive_s(self) -> float:
        return outlive_s(self.config)

    def _env(self) -> dict[str, str]:
        # What an application prints shall appear when it prints it.
        return os.environ | {logs.FOLLOW: str(self.log_file), "PYTHONUNBUFFERED": "1"}

    def _command(self, module: str, command: str | None, options: Mapping[str, object]) -> tuple[str, ...]:
        every = {"--config": self.file, "--base": self.base, "--run-dir": self.run_dir.path, **options}
        head = (sys.executable, "-m", module, *([command] if command else []))
        return (*head, *(str(word) for option in every.items() for word in option))


def worker_count(lb: Lb) -> int:
    """Return how many workers `lb` asks for here: `auto` is one for each CPU that we may use."""
    return min(usable_cpus(), MOST_WORKERS) if lb.workers == AUTO else lb.workers


def outlive_s(config: Config) -> float:
    """Return how long nodes go on without a supervisor: not at all where they could not see whether there is one."""
    return config.nodes.outlive_supervisor_s if can_hold() else 0.0


def redis_outlive_s(config: Config) -> float:
    """Return how long the embedded Redis goes on: until the nodes have left, who sign off there."""
    return outlive_s(config) + config.nodes.drain_s + STOP_MARGIN_S if config.nodes.local else 0.0


def _file_name(number: int) -> str:
    return f"config.resolved.{number}.yaml" if number else "config.resolved.yaml"


def _endpoint(bound: socket.socket) -> Endpoint:
    host, port, *_ = bound.getsockname()
    return Endpoint(host, port)
