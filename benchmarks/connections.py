"""What does an idle connection cost?  Memory of the balancer for each open, silent WebSocket, beside nginx in one run.

    python benchmarks/connections.py [--connections 10000] [--rounds 1] [--json FILE]

Exit status: 0; 1 if a connection was closed; 2 if the benchmark cannot run.  README.md beside this file says what each
figure means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import add_common, nginx_program, run, scratch, whole, write_json
from benchmarks.generator import Generator
from benchmarks.measure import allow_descriptors, machine, most_descriptors, version_of
from benchmarks.peers import Peer
from benchmarks.results import IdleResult
from benchmarks.stacks import HANDOFF, TUNNEL, node_behind_nginx, stack

NGINX = "nginx"
NAMES = (NGINX, TUNNEL, HANDOFF)
DESCRIPTORS_OF_THEIR_OWN = 100
"""Of a balancer or a node: listening sockets, pipes, logs, links, and what it keeps back."""

Round = dict[str, IdleResult]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    program = nginx_program(options.nginx)
    allow_descriptors(options.connections + DESCRIPTORS_OF_THEIR_OWN)
    facts = machine() | {"nginx": version_of([program, "-v"]).rpartition("/")[2]}
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        rounds.append(_round(options, program, NAMES[::-1] if number % 2 else NAMES))
    print("\n".join(report(facts, options, rounds)))
    measured = [{name: asdict(result) for name, result in each.items()} for each in rounds]
    write_json(options, facts, {"rounds": measured})
    losses = list(losses_in(rounds))
    sys.stderr.writelines(f"{line}\n" for line in losses)
    return 1 if losses else 0


def _round(options: argparse.Namespace, program: str, order: Sequence[str]) -> Round:
    """Measure all, one after the other, each freshly started."""
    generator = Generator(options.wsload, warmup_s=0)
    found = {}
    with scratch("connections") as directory:
        for name in order:
            count = most_connections(name, options.connections, most_descriptors())
            with _started(name, directory, program, count) as peer:
                found[name] = generator.idle(peer, count)
    return found


def _started(name: str, directory: Path, program: str, count: int) -> AbstractContextManager[Peer]:
    return node_behind_nginx(directory, program, count) if name == NGINX else _stack(directory, name)


@contextmanager
def _stack(directory: Path, path: str) -> Iterator[Peer]:
    with stack(directory, path) as started:
        yield started.peer


def most_connections(name: str, wanted: int, descriptors: int) -> int:
    """Return how many connections are opened: a balancer that carries bytes needs two descriptors for each."""
    return wanted if name == HANDOFF else min(wanted, (descriptors - DESCRIPTORS_OF_THEIR_OWN) // 2)


def losses_in(rounds: Sequence[Round]) -> Iterator[str]:
    """Say which connections were closed, a line for each round and balancer."""
    for each in rounds:
        for name, idle in each.items():
            if idle.lost:
                yield f"{name}: {idle.lost} of {idle.connections} idle connections were closed"


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Memory for idle WebSockets, one worker and one node each: median of all rounds (lowest to highest)"
    yield from table.heading(facts | {"rounds": str(options.rounds)})
    yield ""
    yield table.line("KiB per connection", "nginx", "tunnel", "tunnel / nginx", "handoff", "handoff / nginx")
    yield _line("  balancer, PSS", rounds, lambda idle: idle.pss_kib_per_connection, digits=3)
    yield _line("  balancer, RSS", rounds, lambda idle: idle.rss_kib_per_connection, digits=3)
    yield _line("  node, PSS", rounds, lambda idle: idle.node_pss_kib_per_connection, digits=3)
    yield _line("MiB of balancer PSS, before", rounds, lambda idle: idle.pss_kib_before / 1024, digits=1)
    counts = {name: str(rounds[0][name].connections) for name in NAMES}
    yield table.line("connections", counts[NGINX], counts[TUNNEL], "", counts[HANDOFF])
    if counts[NGINX] != counts[HANDOFF]:
        yield f"(carrying bytes takes two descriptors a connection, and a process may have {most_descriptors()})"


def _line(name: str, rounds: Sequence[Round], value: Callable[[IdleResult], float], *, digits: int) -> str:
    found = {peer: [value(each[peer]) for each in rounds] for peer in NAMES}
    cells = [table.shown(found[NGINX], digits)]
    for peer in (TUNNEL, HANDOFF):
        cells += [table.shown(found[peer], digits), table.ratio(found[peer], found[NGINX], digits=3)]
    return table.line(name, *cells)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/connections.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=whole(1), default=10_000, help="that are opened and held [10000]")
    parser.add_argument("--rounds", type=whole(1), default=1, help="each starts all afresh [1]")
    add_common(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
