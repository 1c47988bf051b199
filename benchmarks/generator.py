"""Run the load generator as a process of its own, ours or `wsload`, and read what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.client import LEAST_PER_S
from benchmarks.measure import BenchmarkError, family
from benchmarks.peers import Peer, environment
from benchmarks.results import EchoResult, HandshakeResult, IdleResult

MOST_EXTRA_S = 60.0
"""Beyond warm-up and window: opening all connections, waiting for stragglers."""


@dataclass(frozen=True)
class Generator:
    """`wsload` names a program with the command line and the JSON of that name; None: our own, in Python."""

    wsload: str | None
    warmup_s: float
    rate: float = 0.0
    """Messages a second in all; 0: closed loop, each connection sends as soon as it has its echo."""

    def echo(self, peer: Peer, connections: int, size: int, seconds: float) -> EchoResult:
        """Make round trips through `peer` and read its CPU time."""
        common = ["--warmup", str(self.warmup_s), "--rate", str(self.rate)]
        if self.wsload is None:
            command = _ours("echo", peer, connections, "--size", size, "--seconds", seconds)
            return EchoResult(**found_by(command + common, seconds + self.warmup_s))
        command = _wsload(self.wsload, "echo", peer, connections)
        command += ["--binary", "--size", str(size), "--time", str(seconds)]
        found = found_by(command + common, seconds + self.warmup_s)
        return EchoResult(
            round_trips=round(found["messages_per_s"] * found["seconds"]),
            seconds=found["seconds"],
            lost=found["lost"] + found["failed"] + found["dropped"],
            mismatched=found["bad"],
            cpu_us=_balancers(found, peer, "cpu_us_per_unit"),
            p50_us=found["p50_us"],
            p99_us=found["p99_us"],
            generator_cpu_percent=found["generator_cpu_percent"],
        )

    def idle(self, peer: Peer, connections: int) -> IdleResult:
        """Open silent connections to `peer` and read its memory."""
        extra_s = connections / LEAST_PER_S
        if self.wsload is None:
            return IdleResult(**found_by(_ours("idle", peer, connections), extra_s))
        found = found_by([*_wsload(self.wsload, "connect", peer, connections), "--hold", "1"], extra_s)
        each = {key: _balancers(found, peer, f"{key}_kib_per_conn") for key in ("pss", "rss")}
        before = {key: _balancers(found, peer, f"{key}_kib") - each[key] * found["opened"] for key in each}
        return IdleResult(
            connections=found["opened"],
            lost=found["failed"] + found["dropped"],
            pss_kib_before=round(before["pss"]),
            rss_kib_before=round(before["rss"]),
            pss_kib_per_connection=each["pss"],
            rss_kib_per_connection=each["rss"],
            node_pss_kib_per_connection=_nodes(found, peer, "pss_kib_per_conn"),
        )

    def handshakes(self, peer: Peer, handshakes: int, at_once: int) -> HandshakeResult:
        """Open and close WebSockets through `peer` and read its CPU time and its node's."""
        extra_s = handshakes / LEAST_PER_S
        if self.wsload is None:
            return HandshakeResult(**found_by(_ours("handshakes", peer, at_once, "--handshakes", handshakes), extra_s))
        command = [*_wsload(self.wsload, "connect", peer, handshakes), "--churn", "--concurrency", str(at_once)]
        found = found_by(command, extra_s)
        return HandshakeResult(
            handshakes=found["opened"],
            failed=found["failed"] + found["dropped"],
            seconds=found["seconds"],
            balancer_cpu_us=_balancers(found, peer, "cpu_us_per_unit"),
            node_cpu_us=_nodes(found, peer, "cpu_us_per_unit"),
            p50_us=found["p50_us"],
            p99_us=found["p99_us"],
            generator_cpu_percent=found["generator_cpu_percent"],
        )


def _balancers(found: dict[str, Any], peer: Peer, key: str) -> float:
    # wsload counts all descendants of a process, and a supervisor's node is one.
    of_all: float = found["groups"]["peer"][key]
    return of_all - (_nodes(found, peer, key) if peer.node_pid in family(peer.pid) else 0.0)


def _nodes(found: dict[str, Any], peer: Peer, key: str) -> float:
    return float(found["groups"]["node"][key]) if peer.node_pid else 0.0


def _ours(mode: str, peer: Peer, connections: int, *more: object) -> list[str]:
    options = ["--port", peer.port, "--pid", peer.pid, "--path", peer.path, "--connections", connections, *more]
    if peer.node_pid:
        options += ["--node-pid", peer.node_pid]
    return [sys.executable, "-m", "benchmarks.load", mode, *map(str, options)]


def _wsload(program: str, mode: str, peer: Peer, connections: int) -> list[str]:
    url, pids = f"ws://127.0.0.1:{peer.port}{peer.path}", ["--pids", f"peer={peer.pid}"]
    if peer.node_pid:
        pids += ["--pids", f"node={peer.node_pid}"]
    return [program, mode, url, "--conns", str(connections), *pids, "--json"]


def found_by(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a load generator, which takes `seconds` and some more, and return its JSON.  Raises BenchmarkError."""
    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + MOST_EXTRA_S,
            check=False,
        )
    except OSError as exc:
        raise BenchmarkError(f"{command[0]} cannot be started: {exc.strerror}") from None
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"the load generator did not end in {exc.timeout:g} s") from None
    if not done.stdout.startswith("{"):
        raise BenchmarkError(f"the load generator ended with status {done.returncode}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
