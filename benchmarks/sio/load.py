"""The Socket.IO load generator, a process of its own: echoes, broadcasts, idle clients, or connects.

    python -m benchmarks.sio.load echo --port P --process server=PID --clients 100 --size 64 --seconds 5
    python -m benchmarks.sio.load broadcast --port P --process server=PID --clients 1000 --rate 20 --count 10
    python -m benchmarks.sio.load idle --port P --process server=PID --clients 5000
    python -m benchmarks.sio.load connect --port P --process server=PID --clients 50 --connects 3000

It reads CPU time and memory of the processes that are named (NAME=PID,PID...) itself, over its own measuring window,
and prints one JSON object.  The server runs benchmarks/sio/app.py, or the same application.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.client import percentile
from benchmarks.measure import BenchmarkError, allow_descriptors, cpu_s, memory
from benchmarks.sio.clients import Broadcasts, Echoer, Echoes, Listener, Visitor
from benchmarks.sio.results import Connected, Delivered, Echoed, Idle
from benchmarks.sio.swarm import PATIENCE_S, Phase, Swarm, lost, swarm_at

SETTLE_S = 2.0
LINGER_S = 0.2
"""What comes after all has come is one too many."""

LATE_S = 1.0
"""A broadcast that arrives so long after the last was sent has waited in a queue."""


class Meter:
    """CPU time of the server's processes and our own, from when it was made."""

    def __init__(self, processes: dict[str, list[int]]) -> None:
        self._processes = processes
        self._before = {name: cpu_s(pids) for name, pids in processes.items()}
        self._own_before, self._started = time.process_time(), time.perf_counter()

    def read(self, units: int) -> None:
        """Take what was used until now for that many units of work."""
        self.seconds = time.perf_counter() - self._started
        self.cpu_us = {
            name: (cpu_s(pids) - self._before[name]) / max(1, units) * 1e6 for name, pids in self._processes.items()
        }
        self.own_percent = (time.process_time() - self._own_before) / self.seconds * 100

    @property
    def all_cpu_us(self) -> float:
        return sum(self.cpu_us.values())


def echo(options: argparse.Namespace, swarm: Swarm) -> Echoed:
    """Events on every client, the next as soon as one is acknowledged."""
    echoes = Echoes(options.size)
    clients = swarm.open(options.clients, lambda number: Echoer(swarm, number, echoes))
    for client in clients:
        client.emit()
    _go_on(swarm, options.warmup)
    echoes.recording, meter = True, Meter(options.processes)
    _go_on(swarm, options.seconds)
    meter.read(echoes.done)
    echoes.recording = echoes.sending = False
    with suppress(BenchmarkError):  # what never comes back is in the figures
        swarm.until(lambda: not echoes.in_flight, lambda: -echoes.in_flight, "waiting for the last acknowledgements")
    times = sorted(echoes.latencies_s)
    return Echoed(
        round_trips=echoes.done,
        seconds=meter.seconds,
        lost=echoes.in_flight,
        changed=echoes.changed,
        dropped=len(lost(clients)),
        cpu_us=meter.all_cpu_us,
        p50_us=percentile(times, 50) * 1e6,
        p99_us=percentile(times, 99) * 1e6,
        generator_cpu_percent=meter.own_percent,
    )


def broadcast(options: argparse.Namespace, swarm: Swarm) -> Delivered:
    """`rate` times a second a client, each in turn, has its server send `count` messages to everybody."""
    broadcasts = Broadcasts("x" * options.size, options.count)
    clients = swarm.open(options.clients, lambda number: Listener(swarm, number, broadcasts))
    swarm.until(
        lambda: all(client.where for client in clients),
        lambda: sum(bool(client.where) for client in clients),
        "asking the clients for their server",
    )
    speak = partial(_speak, options, swarm, clients, broadcasts)
    speak(options.warmup)
    heard_before = broadcasts.deliveries
    broadcasts.recording, meter = True, Meter(options.processes)
    late_s = speak(options.seconds)
    deliveries = broadcasts.deliveries - heard_before
    meter.read(deliveries)
    _go_on(swarm, LINGER_S)
    times = sorted(broadcasts.latencies_s)
    return Delivered(
        deliveries=deliveries,
        lost=len(broadcasts.sent_at) * len(clients) - broadcasts.deliveries,
        duplicated=broadcasts.duplicated,
        reordered=broadcasts.reordered,
        changed=broadcasts.changed,
        dropped=len(lost(clients)),
        seconds=meter.seconds,
        late=late_s > LATE_S,
        cpu_us=meter.cpu_us,
        p50_us=percentile(times, 50) * 1e6,
        p99_us=percentile(times, 99) * 1e6,
        servers=dict(Counter(client.where for client in clients)),
        generator_cpu_percent=meter.own_percent,
    )


def _speak(
    options: argparse.Namespace, swarm: Swarm, clients: Sequence[Listener], broadcasts: Broadcasts, for_s: float
) -> float:
    """Broadcast for that time, and wait until all has arrived; return how long that took beyond the time."""
    rate: float = options.rate
    turns, number, started = max(1, round(for_s * rate)), len(broadcasts.sent_at), time.perf_counter()
    for turn in range(turns):
        due = started + turn / rate
        while time.perf_counter() < due:
            swarm.turn(due)
        # Latency runs from when it was due: what the generator is late with counts, too.
        broadcasts.sent_at |= dict.fromkeys(range(number, number + options.count), due)
        speaker = clients[number // options.count % len(clients)]
        if speaker.phase is Phase.READY:
            speaker.say(number, options.count)
        number += options.count
    expected = number * len(clients)

    def is_over() -> bool:
        return broadcasts.deliveries >= expected or any(client.phase is Phase.GONE for client in clients)

    try:
        swarm.until(is_over, lambda: broadcasts.deliveries, "waiting for the last broadcasts")
    except BenchmarkError:
        return 0.0  # what never came is in the figures
    return time.perf_counter() - started - turns / rate


def idle(options: argparse.Namespace, swarm: Swarm) -> Idle:
    """Connect clients that stay silent, and see what they take."""
    pids = [pid for group in options.processes.values() for pid in group]
    before = memory(pids)
    clients = swarm.open(options.clients, lambda number: Listener(swarm, number, Broadcasts("")))
    _go_on(swarm, SETTLE_S)
    after = memory(pids)
    return Idle(
        connections=len(clients),
        dropped=len(lost(clients)),
        pss_kib_before=before.pss_kib,
        rss_kib_before=before.rss_kib,
        pss_kib_per_connection=(after.pss_kib - before.pss_kib) / len(clients),
        rss_kib_per_connection=(after.rss_kib - before.rss_kib) / len(clients),
    )


def connect(options: argparse.Namespace, swarm: Swarm) -> Connected:
    """Clients that come and go, `clients` of them at a time."""
    ended: list[Visitor] = []
    meter, started, wanted = Meter(options.processes), 0, int(options.connects)

    def is_over() -> bool:
        nonlocal started
        while started < wanted and started - len(ended) < options.clients:
            swarm.add(Visitor(swarm, started, ended.append))
            started += 1
        return len(ended) == wanted

    swarm.until(is_over, lambda: len(ended), f"connecting {options.connects} clients")
    waits = sorted(each.ready_at - each.started_at for each in ended if each.ready_at)
    meter.read(len(waits))
    return Connected(
        connects=len(waits),
        failed=len(ended) - len(waits),
        seconds=meter.seconds,
        cpu_us=meter.all_cpu_us,
        p50_us=percentile(waits, 50) * 1e6,
        p99_us=percentile(waits, 99) * 1e6,
        generator_cpu_percent=meter.own_percent,
    )


def _go_on(swarm: Swarm, for_s: float) -> None:
    until = time.perf_counter() + for_s
    while time.perf_counter() < until:
        swarm.turn(until)


MODES: dict[str, Callable[[argparse.Namespace, Swarm], Any]] = {
    "echo": echo,
    "broadcast": broadcast,
    "idle": idle,
    "connect": connect,
}


def _process(text: str) -> tuple[str, list[int]]:
    name, _, pids = text.partition("=")
    return name, [int(pid) for pid in pids.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.sio.load", description="Socket.IO load generator")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--process", type=_process, action="append", required=True, metavar="NAME=PID,PID...")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--connects", type=int, default=3000)
    parser.add_argument("--size", type=int, default=64, help="characters of each text")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="with what makes no progress any more")
    options = parser.parse_args(arguments)
    options.processes = dict(options.process)
    gc.disable()  # a pause of ours would be in the latencies; a run makes little garbage
    try:
        allow_descriptors(options.clients + 50)
        with swarm_at(options.port, options.patience) as swarm:
            result = MODES[options.mode](options, swarm)
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
