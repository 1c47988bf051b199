"""Flotilla's own node behind each of the balancers: in a stack of ours, handed off to or tunnelled, and behind nginx.

The node is the same everywhere, benchmarks/echo_app.py.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.echo_app import MOST_MESSAGE_BYTES, PATH
from benchmarks.measure import BenchmarkError, family
from benchmarks.peers import ANY_PACE, POLL_S, START_S, Peer, free_port, nginx, running

APP = "benchmarks.echo_app:sio"
HANDOFF, TUNNEL = "handoff", "tunnel"
RESTART = {"first_delay_s": 0.1, "most_delay_s": 0.2, "give_up_after": 1000}
"""A worker that is killed again and again on purpose is started again each time, and soon."""

SETTLE_S = 5.0
"""Until what the node says of itself has reached the balancer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Child:
    """A process of a stack, as its supervisor reports it."""

    name: str
    pid: int | None
    state: str
    restarts: int


@dataclass(frozen=True)
class Stack:
    """A running stack: `peer` to talk to, `admin_port` to ask."""

    peer: Peer
    admin_port: int
    node_port: int

    def straight_to_node(self, name: str) -> Peer:
        """Return the node as one that is talked to without a balancer."""
        assert self.peer.node_pid is not None
        return Peer(name, self.node_port, self.peer.node_pid, self.peer.path)

    def children(self) -> dict[str, Child]:
        """Return the processes of this stack, by name.  Raises OSError while no worker answers."""
        return {
            child["name"]: Child(child["name"], child["pid"], child["state"], child["restarts"])
            for child in self._ask("/healthz")["children"]
        }

    def worker(self) -> Child:
        return self.children()["worker-0"]

    def node(self) -> dict[str, Any]:
        """Return what `/api/nodes` says of the only node."""
        (node,) = self.nodes()
        return node

    def nodes(self) -> list[dict[str, Any]]:
        """Return what `/api/nodes` says of each."""
        return [dict(node) for node in self._ask("/api/nodes")["nodes"]]

    def still_counted(self, within_s: float = SETTLE_S) -> int:
        """Return how many connections the balancer counts when it should count none, `within_s` after the last."""

        def none_left() -> bool | None:
            return True if not self.node()["connections"] else None

        try:
            until(none_left, within_s, "connections are counted")
        except BenchmarkError:
            return int(self.node()["connections"])
        return 0

    def next_worker(self, before: int, within_s: float = START_S) -> Child:
        """Wait until another worker than the one with the pid `before` serves.  Raises BenchmarkError."""

        def serving() -> Child | None:
            worker = self.worker()
            return worker if worker.state == "ready" and worker.pid not in (None, before) else None

        return until(serving, within_s, "no worker serves again")

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=START_S)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def stack(directory: Path, path: str) -> Iterator[Stack]:
    """Run our balancer with one local node whose WebSockets go by `path`, HANDOFF or TUNNEL.

    Raises BenchmarkError if they go another way.
    """
    port, admin_port, node_port = free_port(), free_port(), free_port()
    base = directory / path
    base.mkdir()
    config = base / "config.yaml"
    config.write_text(stack_config(port, admin_port, node_port, path), encoding="utf-8")
    with running(path, [sys.executable, "-m", "lb", "--config", str(config)], port, base) as peer:
        answering = Stack(peer, admin_port, node_port)
        found = until(lambda: _ready_node(answering), START_S, "the node is not ready")
        if found["path"] != path:
            raise BenchmarkError(f"WebSockets reach the node by {found['path']}, not by {path}")
        if found["pid"] not in family(peer.pid):
            raise BenchmarkError(f"the node, process {found['pid']}, is no child of the stack's")
        yield Stack(Peer(path, port, peer.pid, PATH, found["pid"]), admin_port, node_port)
    shutil.rmtree(base)


def stack_config(port: int, admin_port: int, node_port: int, path: str) -> str:
    """Return a configuration of ours: one worker, one local node, no Redis."""
    sections = {
        "redis": "none",
        "lb": {
            "listen": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{admin_port}",
            "workers": 1,
            "handoff": "auto" if path == HANDOFF else "never",
            "drain_s": 1,
            "handshakes_per_s": ANY_PACE,
        },
        "nodes": {
            "local": 1,
            "handshakes_per_s": ANY_PACE,
            "first_port": node_port,
            "app": APP,
            "discover": False,
            "max_message_bytes": MOST_MESSAGE_BYTES,
            "drain_s": 1,
        },
        "restart": RESTART,
        "log": {"level": "warning"},
    }
    return json.dumps(sections, indent=2)  # JSON is YAML


@contextmanager
def node_behind_nginx(directory: Path, program: str, connections: int) -> Iterator[Peer]:
    """Run the node with nginx in front of it."""
    base = directory / "node"
    base.mkdir()
    config = base / "config.yaml"
    config.write_text(json.dumps({"log": {"level": "warning"}}), encoding="utf-8")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "node",
        "--config",
        str(config),
        "--port",
        str(port),
        "--app",
        APP,
        "--redis",
        "none",
    ]
    with running("node", command, port, base) as node, nginx(directory, program, node, connections) as peer:
        yield Peer(peer.name, peer.port, peer.pid, PATH, node.pid)
    shutil.rmtree(base)


def _ready_node(asked: Stack) -> dict[str, Any] | None:
    node = asked.node()
    return node if node["state"] == "ready" and node["pid"] else None


def until(question: Callable[[], T | None], within_s: float, otherwise: str) -> T:
    """Ask until there is an answer, and return it.  Raises BenchmarkError at the deadline."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if (answer := question()) is not None:
                return answer
        except (OSError, http.client.HTTPException):
            pass  # The worker that was asked died, and there is no other yet.
        time.sleep(POLL_S)
    raise BenchmarkError(f"{otherwise} after {within_s:g} s")
