"""Run the Socket.IO load generator as a process of its own against one server, and read what it found."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.client import LEAST_PER_S
from benchmarks.generator import found_by
from benchmarks.sio.peers import Server
from benchmarks.sio.results import Connected, Delivered, Echoed, Idle
from benchmarks.sio.swarm import PATIENCE_S

SLOWEST_S = 60.0
"""A server that cannot keep up with a rate may take so much longer."""


@dataclass(frozen=True)
class Generator:
    """How long a measuring window is, how many characters the texts have, how long nothing may happen."""

    seconds: float
    size: int
    patience_s: float = PATIENCE_S

    @property
    def warmup_s(self) -> float:
        return min(2.0, self.seconds)

    def echo(self, server: Server, clients: int) -> Echoed:
        """Emit events, one in flight on each client, and have them acknowledged."""
        return Echoed(**self._found("echo", server, clients, self.seconds))

    def broadcast(self, server: Server, clients: int, rate: float, count: int) -> Delivered:
        """Have `count` messages sent to all clients at once, `rate` times a second."""
        return Delivered(
            **self._found("broadcast", server, clients, self.seconds + SLOWEST_S, "--rate", rate, "--count", count)
        )

    def idle(self, server: Server, clients: int) -> Idle:
        """Connect silent clients."""
        return Idle(**self._found("idle", server, clients, clients / LEAST_PER_S))

    def connect(self, server: Server, connects: int, at_once: int) -> Connected:
        """Have clients come and go."""
        return Connected(**self._found("connect", server, at_once, connects / LEAST_PER_S, "--connects", connects))

    def _found(self, mode: str, server: Server, clients: int, takes_s: float, *more: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.sio.load", mode, "--port", server.port, "--clients", clients]
        command += ["--size", self.size, "--seconds", self.seconds, "--warmup", self.warmup_s]
        command += ["--patience", self.patience_s, *more]
        for name, pids in server.processes.items():
            command += ["--process", f"{name}={','.join(map(str, pids))}"]
        return found_by([str(word) for word in command], takes_s + self.warmup_s + self.patience_s)
