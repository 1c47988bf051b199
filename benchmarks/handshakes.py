"""What does a handshake cost?  CPU of balancer and node to open and close a WebSocket, beside nginx in one run.

    python benchmarks/handshakes.py [--handshakes 3000] [--at-once 50] [--rounds 5] [--json FILE]

Exit status: 0; 1 if a handshake failed; 2 if the benchmark cannot run.  README.md beside this file says what each
figure means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import add_common, nginx_program, run, scratch, whole, write_json
from benchmarks.generator import Generator
from benchmarks.measure import allow_descriptors, machine, version_of
from benchmarks.results import HandshakeResult
from benchmarks.stacks import HANDOFF, TUNNEL, node_behind_nginx, stack

NGINX = "nginx"
NAMES = (NGINX, TUNNEL, HANDOFF)
WARM_UP = 300
"""Handshakes through each before the first round: interpreters specialise their code, pools fill."""

Round = dict[str, HandshakeResult]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    program = nginx_program(options.nginx)
    allow_descriptors(2 * options.at_once + 200)
    facts = machine() | {"nginx": version_of([program, "-v"]).rpartition("/")[2]}
    rounds, counted = _rounds(options, program)
    print("\n".join(report(facts, options, rounds)))
    measured = [{name: asdict(result) for name, result in each.items()} for each in rounds]
    write_json(options, facts, {"rounds": measured, "still_counted": counted})
    failures = list(failures_in(rounds, counted))
    sys.stderr.writelines(f"{line}\n" for line in failures)
    return 1 if failures else 0


def _rounds(options: argparse.Namespace, program: str) -> tuple[list[Round], dict[str, int]]:
    """Measure all side by side, each round beginning with another; and see who is still counted at the end."""
    generator = Generator(options.wsload, warmup_s=0)
    with scratch("handshakes") as directory, ExitStack() as started:
        behind_nginx = started.enter_context(node_behind_nginx(directory, program, options.at_once))
        stacks = [started.enter_context(stack(directory, path)) for path in (TUNNEL, HANDOFF)]
        peers = [behind_nginx, *(each.peer for each in stacks)]
        for peer in peers:
            generator.handshakes(peer, WARM_UP, options.at_once)
        rounds = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
            first = number % len(peers)
            order = peers[first:] + peers[:first]
            rounds.append(
                {peer.name: generator.handshakes(peer, options.handshakes, options.at_once) for peer in order}
            )
        return rounds, {each.peer.name: each.still_counted() for each in stacks}


def failures_in(rounds: Sequence[Round], counted: Mapping[str, int]) -> Iterator[str]:
    """Say which handshakes failed, a line for each round and balancer; and whose ends went unnoticed."""
    for each in rounds:
        for name, result in each.items():
            if result.failed or not result.handshakes:
                yield f"{name}: {result.failed} of {result.failed + result.handshakes} handshakes failed"
    for name, count in counted.items():
        if count:
            yield f"{name}: {count} connections are counted after all were closed"


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "A WebSocket handshake and its close, one worker and one node each: median of all rounds (lowest to highest)"
    load = f"{options.handshakes} handshakes, {options.at_once} at once; {options.rounds} rounds"
    yield from table.heading(facts | {"generator": options.wsload or "benchmarks/load.py", "load": load})
    yield ""
    yield table.line("CPU µs per handshake", "nginx", "tunnel", "tunnel / nginx", "handoff", "handoff / nginx")
    yield _line("  balancer + node", rounds, lambda each: each.cpu_us)
    yield _line("  balancer", rounds, lambda each: each.balancer_cpu_us)
    yield _line("  node", rounds, lambda each: each.node_cpu_us)
    yield _line("handshakes per second", rounds, lambda each: each.per_second)
    yield _line("µs until the 101, p50", rounds, lambda each: each.p50_us)
    yield _line("µs until the 101, p99", rounds, lambda each: each.p99_us)


def _line(name: str, rounds: Sequence[Round], value: Callable[[HandshakeResult], float]) -> str:
    found = {peer: [value(each[peer]) for each in rounds] for peer in NAMES}
    cells = [table.shown(found[NGINX], 0)]
    for peer in (TUNNEL, HANDOFF):
        cells += [table.shown(found[peer], 0), table.ratio(found[peer], found[NGINX])]
    return table.line(name, *cells)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/handshakes.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--handshakes", type=whole(1), default=3000, help="per round and balancer [3000]")
    parser.add_argument("--at-once", type=whole(1), default=50, help="connections under way at the same time [50]")
    parser.add_argument("--rounds", type=whole(1), default=5, help="one after the other, order rotated [5]")
    add_common(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
