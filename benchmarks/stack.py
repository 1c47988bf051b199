"""What does a whole stack cost?  Balancer, three nodes and Redis of ours beside nginx, three Node.js servers and Redis.

    python benchmarks/stack.py [--clients 1000] [--rate 20] [--rounds 3] [--seconds 5] [--json FILE]

Clients are spread over all nodes, and each in turn has its node broadcast to everybody: CPU time of all processes per
delivery.  The peer is nginx with `ip_hash`, socket.io 4 with @socket.io/redis-adapter, and the same Redis that we
embed.  `npm ci --prefix benchmarks/js` installs it.

Exit status: 0; 1 if something was lost, changed or dropped; 2 if the benchmark cannot run.  README.md beside this file
says what each figure means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import nginx_program, run, scratch, whole, write_json
from benchmarks.measure import BenchmarkError, allow_descriptors, machine, version_of
from benchmarks.sio import verdict
from benchmarks.sio.generator import Generator
from benchmarks.sio.options import add_options, positive_rate
from benchmarks.sio.peers import (
    BALANCER,
    FLOTILLA,
    NODE_JS,
    NODES,
    REDIS,
    SERVERS,
    Server,
    node_facts,
    node_program,
    our_stack,
    their_stack,
)
from benchmarks.sio.results import Delivered
from benchmarks.sio.verdict import Budget, Figure

SIDES = (FLOTILLA, NODE_JS)
LEAST_SHARE = 0.1
"""Of all clients on each node: else this is not what three nodes cost."""

Round = dict[str, Delivered]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    program, nginx = node_program(options.node), nginx_program(options.nginx)
    allow_descriptors(2 * options.clients + 200)
    facts = machine() | {"nginx": version_of([nginx, "-v"]).rpartition("/")[2]} | node_facts(program)
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        order = SIDES[::-1] if number % 2 else SIDES
        rounds.append({side: _one_side(side, options, program, nginx) for side in order})
    print("\n".join(report(facts, options, rounds)))
    measured = [{side: asdict(result) for side, result in each.items()} for each in rounds]
    write_json(options, facts, {"rounds": measured})
    sys.stderr.writelines(f"{line}\n" for line in remarks_on(rounds))
    faults = list(faults_in(rounds))
    sys.stderr.writelines(f"{line}\n" for line in faults)
    return 1 if faults else 0


def _one_side(side: str, options: argparse.Namespace, program: str, nginx: str) -> Delivered:
    generator = Generator(options.seconds, options.size)
    with scratch("stack") as directory, _started(side, directory, options, program, nginx) as server:
        found = generator.broadcast(server, options.clients, options.rate, options.count)
    check_spread(side, found)
    return found


def _started(
    side: str, directory: Path, options: argparse.Namespace, program: str, nginx: str
) -> AbstractContextManager[Server]:
    if side == FLOTILLA:
        return our_stack(directory, options.app)
    return their_stack(directory, program, nginx, options.clients)


def check_spread(side: str, found: Delivered) -> None:
    """Raise BenchmarkError unless each node has its share of the clients."""
    share = min(found.servers.values()) / sum(found.servers.values())
    if len(found.servers) != NODES or share < LEAST_SHARE:
        raise BenchmarkError(f"{side}: the clients are not spread over {NODES} nodes: {found.servers}")


def faults_in(rounds: Sequence[Round]) -> Iterator[str]:
    """Say what went wrong, with the side."""
    for number, each in enumerate(rounds, 1):
        for side, result in each.items():
            yield from (f"{side}, round {number}: {fault}" for fault in result.faults)


def remarks_on(rounds: Sequence[Round]) -> Iterator[str]:
    """Say which figures do not mean what they should."""
    for number, each in enumerate(rounds, 1):
        for side, result in each.items():
            if result.late:
                yield f"{side}, round {number}: could not keep up, the latency is that of its queue"


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield f"A balancer, {NODES} nodes and a Redis: median of all rounds (lowest to highest)"
    what = "lone broadcasts" if options.count == 1 else f"ticks with {options.count} broadcasts"
    load = f"{options.clients} clients, {options.rate:g} {what} a second; texts of {options.size} characters"
    spread = "; ".join(f"{side} {_spread(rounds[0][side])}" for side in SIDES)
    duration = f"{options.rounds} of {options.seconds:g} s"
    yield from table.heading(facts | {"load": load, "rounds": duration, "clients": spread})
    yield ""
    yield from verdict.lines(_figures(rounds))


def _spread(result: Delivered) -> str:
    return " + ".join(str(count) for _, count in sorted(result.servers.items()))


def _figures(rounds: Sequence[Round]) -> Iterator[Figure]:
    def figure(name: str, value: Callable[[Delivered], float], digits: int, budget: Budget | None = None) -> Figure:
        ours, theirs = ([value(each[side]) for each in rounds] for side in SIDES)
        return Figure(name, ours, theirs, digits, budget)

    yield figure("CPU µs per delivery", lambda result: result.all_cpu_us, 2, Budget(0.25))
    yield figure("  balancer", lambda result: result.cpu_us[BALANCER], 2)
    yield figure(f"  {NODES} nodes", lambda result: result.cpu_us[SERVERS], 2)
    yield figure("  Redis", lambda result: result.cpu_us[REDIS], 2)
    yield figure("latency p50, µs", lambda result: result.p50_us, 0)
    yield figure("latency p99, µs", lambda result: result.p99_us, 0)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/stack.py", description=(__doc__ or "").partition("\n")[0])
    add_options(parser, clients=1000)
    parser.add_argument("--rate", type=positive_rate, default=20.0, help="broadcasts, or ticks, a second [20]")
    parser.add_argument("--count", type=whole(1), default=1, help="broadcasts in a tick [1]")
    parser.add_argument("--nginx", default="nginx", help="the nginx program [nginx]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
