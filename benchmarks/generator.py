"""Run the load generator as a process of its own, ours or `wsload`, and read what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.load import EchoResult, IdleResult
from benchmarks.measure import BenchmarkError
from benchmarks.peers import Peer, environment

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
            return EchoResult(**_json(command + common, seconds + self.warmup_s))
        command = _wsload(self.wsload, "echo", peer, connections)
        command += ["--binary", "--size", str(size), "--time", str(seconds)]
        found = _json(command + common, seconds + self.warmup_s)
        return EchoResult(
            round_trips=round(found["messages_per_s"] * found["seconds"]),
            seconds=found["seconds"],
            lost=found["lost"] + found["failed"] + found["dropped"],
            mismatched=found["bad"],
            cpu_us=found["groups"]["peer"]["cpu_us_per_unit"],
            p50_us=found["p50_us"],
            p99_us=found["p99_us"],
            generator_cpu_percent=found["generator_cpu_percent"],
        )

    def idle(self, peer: Peer, connections: int) -> IdleResult:
        """Open silent connections to `peer` and read its memory."""
        if self.wsload is None:
            return IdleResult(**_json(_ours("idle", peer, connections), 0))
        found = _json([*_wsload(self.wsload, "connect", peer, connections), "--hold", "1"], 1)
        group = found["groups"]["peer"]
        return IdleResult(
            connections=found["opened"],
            lost=found["failed"] + found["dropped"],
            pss_kib_before=round(group["pss_kib"] - group["pss_kib_per_conn"] * found["opened"]),
            rss_kib_before=round(group["rss_kib"] - group["rss_kib_per_conn"] * found["opened"]),
            pss_kib_per_connection=group["pss_kib_per_conn"],
            rss_kib_per_connection=group["rss_kib_per_conn"],
        )


def _ours(mode: str, peer: Peer, connections: int, *more: object) -> list[str]:
    options = ["--port", peer.port, "--pid", peer.pid, "--connections", connections, *more]
    return [sys.executable, "-m", "benchmarks.load", mode, *map(str, options)]


def _wsload(program: str, mode: str, peer: Peer, connections: int) -> list[str]:
    url, pids = f"ws://127.0.0.1:{peer.port}/", f"peer={peer.pid}"
    return [program, mode, url, "--conns", str(connections), "--pids", pids, "--json"]


def _json(command: list[str], seconds: float) -> dict[str, Any]:
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
