"""Clients that are there already, a process of its own: many that are silent, some that emit at an even pace.

    python -m benchmarks.sio.steady --port P --idle 10000 --busy 2000 --rate 2000

It says `open` when all are connected, measures for as many seconds as each line of its input says, and prints a JSON
object for each.  It ends with its input.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.client import percentile
from benchmarks.measure import BenchmarkError, allow_descriptors
from benchmarks.sio.clients import Broadcasts, Echoer, Echoes, Listener
from benchmarks.sio.results import Steady
from benchmarks.sio.swarm import OPENING_AT_ONCE, Client, Phase, Swarm, lost, swarm_at

WAITING_S = 0.05
"""How often the input is looked at while nothing is measured."""

LAST_ANSWERS_S = 10.0


class Pacer:
    """Has the clients emit in turn, `rate` times a second in all.  Latency runs from when each was due."""

    def __init__(self, swarm: Swarm, clients: Sequence[Echoer], echoes: Echoes, rate: float) -> None:
        self._swarm, self._clients, self._echoes = swarm, deque(clients), echoes
        self._every_s = 1 / rate if rate and clients else 0.0
        self.skipped = 0
        """Turns of clients that had no answer to the one before yet."""

    def run(self, until: float) -> None:
        """Go on until then, on the clock time.perf_counter."""
        due = time.perf_counter() if self._every_s else until
        while True:
            while time.perf_counter() < due:
                self._swarm.turn(due)
            if due >= until:
                return
            client = self._clients[0]
            self._clients.rotate(-1)
            if client.phase is Phase.READY and not client.is_waiting:
                client.emit(due)
            else:
                self.skipped += 1
            due = min(due + self._every_s, until)


def measure(pacer: Pacer, swarm: Swarm, echoes: Echoes, clients: Sequence[Client], seconds: float) -> Steady:
    """Go on for that time, and see how long answers take and who is gone."""
    echoes.latencies_s.clear()
    echoes.done, echoes.recording, skipped = 0, True, pacer.skipped
    own_before, started = time.process_time(), time.perf_counter()
    pacer.run(started + seconds)
    own_s, took_s = time.process_time() - own_before, time.perf_counter() - started
    deadline = time.perf_counter() + LAST_ANSWERS_S
    while echoes.in_flight and time.perf_counter() < deadline:
        swarm.turn(deadline)
    echoes.recording = False
    times = sorted(echoes.latencies_s)
    return Steady(
        round_trips=echoes.done,
        seconds=took_s,
        lost=echoes.in_flight,
        skipped=pacer.skipped - skipped,
        changed=echoes.changed,
        dropped=tuple(lost(clients)),
        p50_us=percentile(times, 50) * 1e6,
        p90_us=percentile(times, 90) * 1e6,
        p99_us=percentile(times, 99) * 1e6,
        longest_us=times[-1] * 1e6 if times else 0.0,
        generator_cpu_percent=own_s / took_s * 100,
    )


def serve(options: argparse.Namespace, swarm: Swarm) -> None:
    """Connect all, and measure as often as the input says."""
    echoes = Echoes(options.size, sending=False)
    busy = swarm.open(options.busy, lambda number: Echoer(swarm, number, echoes), options.at_once)
    silent = swarm.open(options.idle, lambda number: Listener(swarm, number, Broadcasts("")), options.at_once)
    clients: list[Client] = [*busy, *silent]
    pacer = Pacer(swarm, busy, echoes, options.rate)
    print("open", flush=True)
    while True:
        pacer.run(time.perf_counter() + WAITING_S)
        if select.select([sys.stdin], [], [], 0)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            print(json.dumps(asdict(measure(pacer, swarm, echoes, clients, float(line)))), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.sio.steady", description="Socket.IO clients that stay")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, default=0)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="events a second of all busy clients together")
    parser.add_argument("--at-once", type=int, default=OPENING_AT_ONCE, help="connects that are under way")
    parser.add_argument("--size", type=int, default=64, help="characters of each text")
    options = parser.parse_args(arguments)
    gc.disable()  # a pause of ours would be in the latencies; a run makes little garbage
    try:
        allow_descriptors(options.idle + options.busy + 50)
        with swarm_at(options.port) as swarm:
            serve(options, swarm)
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
