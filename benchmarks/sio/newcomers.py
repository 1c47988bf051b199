"""Clients that all want in, a process of its own: so many a second, however those before them fare.

    python -m benchmarks.sio.newcomers --port P --rate 600

Who is let in stays; who is refused comes no more.  When its input ends, it prints one JSON object, and all leave.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.client import percentile
from benchmarks.measure import BenchmarkError, allow_descriptors, most_descriptors
from benchmarks.sio.results import Stormed
from benchmarks.sio.swarm import Client, Swarm, swarm_at

LOOK_S = 0.05
"""How often the input is looked at."""

REFUSED = "no upgrade: b'HTTP/1.1 503"


class Tally:
    """What all of them count together."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.ends: Counter[str] = Counter()


class Newcomer(Client):
    """Notes when it came, and when it was connected."""

    def __init__(self, swarm: Swarm, number: int, tally: Tally) -> None:
        super().__init__(swarm, number)
        self._tally = tally
        self._came_at = time.perf_counter()

    def ready(self) -> None:
        self._tally.waits_s.append(time.perf_counter() - self._came_at)

    def gone(self) -> None:
        self._tally.ends[self.reason] += 1


def storm(swarm: Swarm, rate: float) -> Stormed:
    """Let them come until the input ends."""
    tally, came, started = Tally(), 0, time.perf_counter()
    own_before = time.process_time()
    while not select.select([sys.stdin], [], [], 0)[0]:
        look_at = time.perf_counter() + LOOK_S
        while (now := time.perf_counter()) < look_at:
            if now >= started + came / rate:
                swarm.add(Newcomer(swarm, came, tally))
                came += 1
            else:
                swarm.turn(min(look_at, started + came / rate))
    took_s, own_s = time.perf_counter() - started, time.process_time() - own_before
    refused = sum(count for reason, count in tally.ends.items() if reason.startswith(REFUSED))
    waits = sorted(tally.waits_s)
    return Stormed(
        came=came,
        let_in=len(waits),
        refused=refused,
        failed=tuple(f"{count} × {reason}" for reason, count in tally.ends.items() if not reason.startswith(REFUSED)),
        seconds=took_s,
        p50_us=percentile(waits, 50) * 1e6,
        p99_us=percentile(waits, 99) * 1e6,
        generator_cpu_percent=own_s / took_s * 100,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.sio.newcomers", description="Socket.IO clients that want in")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="new clients a second")
    options = parser.parse_args(arguments)
    gc.disable()
    try:
        allow_descriptors(most_descriptors())
        with swarm_at(options.port) as swarm:
            print(json.dumps(asdict(storm(swarm, options.rate))), flush=True)
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
