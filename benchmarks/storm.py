"""Do those who are connected notice a storm of new clients?  Echo latency in calm and in the storm, by turns.

    python benchmarks/storm.py                              # 20,000 idle and 2,000 busy clients
    python benchmarks/storm.py --idle 2000 --busy 200 --rate 200 --limit 100

Our stack as it comes, three nodes; in the storm twice as many clients a second want in as `lb.handshakes_per_s` allows.

Exit status: 0; 1 if somebody was dropped, a message lost or a new client met anything else than a connection or 503;
2 if the benchmark cannot run.  README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import run, scratch, seconds, whole, write_json
from benchmarks.measure import BenchmarkError, Spread, allow_descriptors, cpu_s, machine, most_descriptors
from benchmarks.sio.crowds import Crowd, crowd
from benchmarks.sio.options import positive_rate
from benchmarks.sio.peers import APP, BALANCER, NODES, REDIS, SERVERS, Server, our_stack
from benchmarks.sio.results import Steady, Stormed

MOST_IN_A_CROWD = 10_000
SPARE = 200
"""Descriptors of a process beside those of its clients."""

LEAD_S = 4.0
"""From the storm's beginning until it is measured: by then as many wait as may (lb.handshake_wait_s)."""

REST_S = 3.0
"""From the storm's end until the next calm: by then who was let in is gone, and forgotten."""

CLIENTS = "clients"
BUDGET = 1.5
"""What the median of p99 in the storm / p99 in calm may be."""


@dataclass(frozen=True)
class Phase:
    """What the busy clients met, and how busy everybody was: CPU time in % of a core."""

    steady: Steady
    cpu_percent: dict[str, float]


@dataclass(frozen=True)
class Round:
    """Calm, and then the storm."""

    calm: Phase
    storm: Phase
    newcomers: Stormed


@dataclass(frozen=True)
class Present:
    """Who is connected all the time."""

    busy: Crowd
    silent: list[Crowd]

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in (self.busy, *self.silent)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    _allow_descriptors(options)
    facts = machine()
    rounds, gone = _rounds(options)
    print("\n".join(report(facts, options, rounds)))
    write_json(options, facts, {"rounds": [asdict(each) for each in rounds], "gone": gone})
    faults = [*faults_in(rounds), *gone]
    sys.stderr.writelines(f"{line}\n" for line in faults)
    return 1 if faults else 0


def _allow_descriptors(options: argparse.Namespace) -> None:
    """Raise BenchmarkError if a node cannot have a third of all clients, or the storm all that are let in."""
    let_in = options.limit * (LEAD_S + options.seconds) * 2
    # The nodes' shares are not the same to the last client.
    allow_descriptors(round(1.2 * (options.idle + options.busy + let_in) / NODES) + SPARE)
    allow_descriptors(round(let_in) + SPARE)


def _rounds(options: argparse.Namespace) -> tuple[list[Round], list[str]]:
    """Measure calm and storm by turns; and say which of those that only listen are gone at the end."""
    with scratch("storm") as directory, ExitStack() as started:
        server = started.enter_context(our_stack(directory, options.app, options.limit))
        present = _present(options, server, started)
        if options.real_time:
            _prefer([*server.processes[SERVERS], present.busy.pid])
        rounds = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
            rounds.append(_round(options, server, present))
            time.sleep(REST_S)
        return rounds, [reason for each in present.silent for reason in each.measured(0.0).dropped]


def _present(options: argparse.Namespace, server: Server, started: ExitStack) -> Present:
    """Connect all who stay, at the pace at which they are let in."""
    print(f"connecting {options.idle + options.busy} clients ...", file=sys.stderr)
    most = min(MOST_IN_A_CROWD, most_descriptors() - SPARE)
    sizes = [min(most, options.idle - first) for first in range(0, options.idle, most)]
    # So few under way that nobody waits for longer than a second or so.
    port, at_once = server.port, max(1, int(options.limit / (len(sizes) + 1)))
    silent = [started.enter_context(crowd("steady", port, idle=size, at_once=at_once)) for size in sizes]
    busy = started.enter_context(crowd("steady", port, busy=options.busy, rate=options.rate, at_once=at_once))
    for each in (*silent, busy):
        each.await_open((options.idle + options.busy) / options.limit)
    return Present(busy, silent)


def _prefer(pids: Sequence[int]) -> None:
    """Let these run before everything else on the machine (sched(7)).  Raises BenchmarkError if we may not."""
    try:
        for pid in pids:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except PermissionError:
        raise BenchmarkError("--real-time needs root (CAP_SYS_NICE)") from None


def _round(options: argparse.Namespace, server: Server, present: Present) -> Round:
    calm = _phase(options, server, present, [])
    with crowd("newcomers", server.port, rate=2 * options.limit) as storm:
        time.sleep(LEAD_S)
        stormy = _phase(options, server, present, [storm.pid])
        return Round(calm, stormy, storm.ended())


def _phase(options: argparse.Namespace, server: Server, present: Present, more: Sequence[int]) -> Phase:
    """Measure for a while; `more` are the processes of clients that are there for this phase only."""
    processes = server.processes | {CLIENTS: [*present.pids, *more]}
    before, began = {name: cpu_s(pids) for name, pids in processes.items()}, time.perf_counter()
    steady = present.busy.measured(options.seconds)
    took_s = time.perf_counter() - began
    return Phase(steady, {name: (cpu_s(pids) - before[name]) / took_s * 100 for name, pids in processes.items()})


def faults_in(rounds: Sequence[Round]) -> Iterator[str]:
    """Say what must not have happened, a line each."""
    for number, each in enumerate(rounds, 1):
        for name, phase in (("calm", each.calm), ("storm", each.storm)):
            steady = phase.steady
            if steady.lost or steady.changed or not steady.round_trips:
                yield (
                    f"round {number}, {name}: {steady.round_trips} events acknowledged, {steady.lost} not,"
                    f" {steady.changed} with something else"
                )
            yield from (f"round {number}, {name}: {reason}" for reason in steady.dropped)
        yield from (f"round {number}, new clients: {reason}" for reason in each.newcomers.failed)
        if not each.newcomers.let_in:
            yield f"round {number}: nobody was let in"


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Those who are connected while others want in: median of all rounds (lowest to highest)"
    there = f"{options.idle} idle and {options.busy} busy clients, {options.rate:g} events/s, {NODES} nodes"
    storm = f"{2 * options.limit:g} new clients/s, {options.limit:g} may come in (lb.handshakes_per_s)"
    load = f"{options.rounds} rounds of {options.seconds:g} s of each"
    load += "; nodes and busy clients run before all others" if options.real_time else ""
    yield from table.heading(facts | {"there": there, "storm": storm, "load": load})
    yield ""
    yield table.line("event until its ack, µs", "calm", "storm", "storm / calm")
    yield _line("  p50", rounds, lambda phase: phase.steady.p50_us)
    yield _line("  p90", rounds, lambda phase: phase.steady.p90_us)
    yield _line("  p99", rounds, lambda phase: phase.steady.p99_us)
    yield _line("  longest", rounds, lambda phase: phase.steady.longest_us)
    found = Spread.of([each.storm.steady.p99_us / max(1.0, each.calm.steady.p99_us) for each in rounds]).median
    yield f"budget: p99 in the storm / in calm ≤ {BUDGET:g}, found {found:.2f}: {_verdict(found)}"
    yield ""
    yield table.line("CPU, % of a core", "calm", "storm", "storm / calm")
    for name, what in ((SERVERS, f"{NODES} nodes"), (BALANCER, BALANCER), (REDIS, "Redis"), (CLIENTS, "all clients")):
        yield _line(f"  {what}", rounds, lambda phase, name=name: phase.cpu_percent[name], 1)  # type: ignore[misc]
    yield ""
    yield from _of_newcomers([each.newcomers for each in rounds])


def _verdict(ratio: float) -> str:
    return "kept" if ratio <= BUDGET else "MISSED"


def _line(name: str, rounds: Sequence[Round], value: Callable[[Phase], float], digits: int = 0) -> str:
    calm, storm = [value(each.calm) for each in rounds], [value(each.storm) for each in rounds]
    return table.line(name, table.shown(calm, digits), table.shown(storm, digits), table.ratio(storm, calm))


def _of_newcomers(storms: Sequence[Stormed]) -> Iterator[str]:
    yield table.line("new clients", "per second")
    yield table.line("  came", table.shown([each.came / each.seconds for each in storms], 0))
    yield table.line("  let in", table.shown([each.let_in / each.seconds for each in storms], 0))
    yield table.line("  refused (503)", table.shown([each.refused / each.seconds for each in storms], 0))
    yield table.line("  s until let in, p50", table.shown([each.p50_us / 1e6 for each in storms], 2))
    yield table.line("  s until let in, p99", table.shown([each.p99_us / 1e6 for each in storms], 2))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/storm.py", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--idle", type=whole(1), default=20_000, help="clients that only answer pings [20000]")
    add("--busy", type=whole(1), default=2000, help="clients that emit in turn, and wait for the ack [2000]")
    add("--rate", type=positive_rate, default=2000.0, help="events a second of all busy clients [2000]")
    add("--limit", type=positive_rate, default=300.0, help="lb.handshakes_per_s; twice as many want in [300]")
    add("--rounds", type=whole(1), default=5, help="each is calm and then a storm [5]")
    add("--seconds", type=seconds, default=10.0, help="measured in each phase [10]")
    add("--real-time", action="store_true", help="nodes and busy clients run before all else (SCHED_RR; needs root)")
    add("--app", default=APP, help=f"the application [{APP}]")
    add("--json", type=Path, help="write all measurements to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
