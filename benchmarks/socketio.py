"""What does Socket.IO cost?  A node of ours beside Node.js' socket.io in one run, one process each, the same load.

    python benchmarks/socketio.py [--rounds 3] [--seconds 5] [--only echo,lone] [--json FILE]

Events with acknowledgement, broadcasts to 1,000 clients (lone ones, and ten in one tick), memory of idle connections,
and connects.  `npm ci --prefix benchmarks/js` installs the peer.

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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import run, scratch, whole, write_json
from benchmarks.measure import allow_descriptors, machine
from benchmarks.sio import verdict
from benchmarks.sio.generator import Generator
from benchmarks.sio.options import add_options, positive_rate
from benchmarks.sio.peers import FLOTILLA, NODE_JS, SERVERS, Server, node_facts, node_js, node_program, our_node
from benchmarks.sio.results import Result
from benchmarks.sio.verdict import Budget, Figure

SIDES = (FLOTILLA, NODE_JS)
IDLE, CONNECT, ECHO, LONE, BURST = QUESTIONS = ("idle", "connect", "echo", "lone", "burst")
AT_ONCE = 50
"""Connects that are under way at the same time."""

WARM_UP = 500
"""Connects before those that count: V8 and CPython specialise their code."""

Round = dict[str, dict[str, Any]]
"""A Result by side and question."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    program = node_program(options.node)
    allow_descriptors(max(options.clients, options.idle if IDLE in options.only else 0) + 200)
    facts = machine() | node_facts(program)
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        rounds.append(_round(options, program, SIDES[::-1] if number % 2 else SIDES))
    print("\n".join(report(facts, options, rounds)))
    measured = [
        {side: {name: asdict(result) for name, result in found.items()} for side, found in each.items()}
        for each in rounds
    ]
    write_json(options, facts, {"rounds": measured})
    sys.stderr.writelines(f"{line}\n" for line in remarks_on(rounds))
    faults = list(faults_in(rounds))
    sys.stderr.writelines(f"{line}\n" for line in faults)
    return 1 if faults else 0


def _round(options: argparse.Namespace, program: str, order: Sequence[str]) -> Round:
    """Ask both sides everything, one after the other.  Memory is that of a process that did nothing before."""
    alone = [name for name in options.only if name == IDLE]
    together = [name for name in options.only if name != IDLE]
    found: Round = {side: {} for side in order}
    for names in filter(None, (alone, together)):
        for side in order:
            with scratch("socketio") as directory, _started(side, directory, options, program) as server:
                for name in names:
                    found[side][name] = _ask(name, server, options)
    return found


def _started(side: str, directory: Path, options: argparse.Namespace, program: str) -> AbstractContextManager[Server]:
    return our_node(directory, options.app) if side == FLOTILLA else node_js(directory, program)


def _ask(name: str, server: Server, options: argparse.Namespace) -> Result:
    generator = Generator(options.seconds, options.size)
    if name == IDLE:
        return generator.idle(server, options.idle)
    if name == CONNECT:
        generator.connect(server, min(WARM_UP, options.connects), AT_ONCE)
        return generator.connect(server, options.connects, AT_ONCE)
    if name == ECHO:
        return generator.echo(server, options.senders)
    if name == LONE:
        return generator.broadcast(server, options.clients, options.rate, 1)
    return generator.broadcast(server, options.clients, options.ticks, options.burst)


def faults_in(rounds: Sequence[Round]) -> Iterator[str]:
    """Say what went wrong, with side and question."""
    for number, each in enumerate(rounds, 1):
        for side, results in each.items():
            for name, result in results.items():
                yield from (f"{side}, {name}, round {number}: {fault}" for fault in result.faults)


def remarks_on(rounds: Sequence[Round]) -> Iterator[str]:
    """Say which figures do not mean what they should."""
    for number, each in enumerate(rounds, 1):
        for side, results in each.items():
            for name in (LONE, BURST):
                if name in results and results[name].late:
                    yield f"{side}, {name}, round {number}: could not keep up, the latency is that of its queue"


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Socket.IO, one process each: median of all rounds (lowest to highest)"
    load = f"{options.rounds} rounds of {options.seconds:g} s; texts of {options.size} characters"
    yield from table.heading(facts | {"load": load})
    yield ""
    yield from verdict.lines(_figures(options, rounds))


def _figures(options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[Figure]:
    figures: dict[str, tuple[tuple[str, Callable[[Any], float], int, Budget | None], ...]] = {
        ECHO: (
            (f"event and ack, {options.senders} clients", _cpu, 1, Budget(0.75)),
            ("  per second", lambda result: result.per_second, 0, None),
            ("  latency p99, µs", _p99, 0, None),
        ),
        LONE: (
            (f"lone broadcast, {options.clients} clients", _delivery_cpu, 2, Budget(0.5)),
            (f"  latency p99, µs, {options.rate:g}/s", _p99, 0, Budget(1)),
        ),
        BURST: (
            (f"{options.burst} in a tick, {options.clients} clients", _delivery_cpu, 2, Budget(0.12)),
            (f"  latency p99, µs, {options.ticks:g}/s", _p99, 0, Budget(1)),
        ),
        IDLE: (
            (f"KiB PSS each, {options.idle} idle", lambda result: result.pss_kib_per_connection, 2, Budget(0.4)),
            ("  MiB PSS, before", lambda result: result.pss_kib_before / 1024, 1, None),
        ),
        CONNECT: (
            ("connects per second", lambda result: result.per_second, 0, Budget(1, at_least=True)),
            ("  CPU µs each", _cpu, 0, None),
            ("  latency p99, µs", _p99, 0, None),
        ),
    }
    for question, rows in figures.items():
        if question in options.only:
            for name, value, digits, budget in rows:
                ours, theirs = ([value(each[side][question]) for each in rounds] for side in SIDES)
                yield Figure(name, ours, theirs, digits, budget)


def _cpu(result: Any) -> float:
    return float(result.cpu_us)


def _delivery_cpu(result: Any) -> float:
    return float(result.cpu_us[SERVERS])


def _p99(result: Any) -> float:
    return float(result.p99_us)


def _questions(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in QUESTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(QUESTIONS)}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/socketio.py", description=(__doc__ or "").partition("\n")[0])
    add_options(parser, clients=1000)
    add = parser.add_argument
    add("--only", type=_questions, default=QUESTIONS, metavar="A,B", help=f"of {','.join(QUESTIONS)} [all]")
    add("--senders", type=whole(1), default=100, help="clients that emit and wait for the ack [100]")
    add("--rate", type=positive_rate, default=20.0, help="lone broadcasts a second [20]")
    add("--ticks", type=positive_rate, default=5.0, help="ticks a second in which several are sent [5]")
    add("--burst", type=whole(2), default=10, help="broadcasts in such a tick [10]")
    add("--idle", type=whole(1), default=5000, help="clients of which memory is measured [5000]")
    add("--connects", type=whole(1), default=3000, help="that are counted [3000]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
