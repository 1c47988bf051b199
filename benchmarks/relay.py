"""What does the balancer cost?  CPU per WebSocket round trip, memory and latency, beside nginx in one run.

    python benchmarks/relay.py [--connections 100] [--sizes 32,1024,65536] [--seconds 5] [--rounds 3] [--json FILE]

Three balancers: nginx and ours, which carries the bytes (tunnel), both in front of the same cheap echo server; and ours
with a node of its own that it hands connections to (handoff).

Exit status: 0; 1 if a message was lost or came back changed; 2 if the benchmark cannot run.  README.md beside this file
says what each figure means.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import add_common, nginx_program, rate, run, scratch, seconds, whole, write_json
from benchmarks.generator import Generator
from benchmarks.measure import Spread, allow_descriptors, balancer_of, cpu_s, machine, version_of
from benchmarks.peers import Peer, echo_backend, flotilla, nginx
from benchmarks.results import EchoResult, IdleResult
from benchmarks.stacks import HANDOFF, TUNNEL, stack

NGINX, DIRECT, NODE = "nginx", "direct", "direct to the node"
BALANCERS = (NGINX, TUNNEL, HANDOFF)
LATENCY_SIZE, LATENCY_SLICES, LATENCY_MOST_S = 32, 4, 0.5
"""Bytes; how often each has its turn, and for how long: what slows the machine for a moment shall hit all."""


@dataclass(frozen=True)
class Round:
    """Everything that one round measured, by the peer's name."""

    rest_us_per_s: dict[str, float] = field(default_factory=dict)
    """CPU time a second of each balancer while nobody is connected: probes, reports, timers."""
    idle: dict[str, IdleResult] = field(default_factory=dict)
    latency: dict[str, list[EchoResult]] = field(default_factory=dict)
    """Of one lone connection, in several slices."""
    echo: dict[int, dict[str, EchoResult]] = field(default_factory=dict)

    def added_cpu_us(self, name: str, size: int) -> float:
        """Return CPU per round trip, less what the balancer would have taken anyhow in that time."""
        echo = self.echo[size][name]
        return echo.cpu_us - self.rest_us_per_s[name] / echo.per_second

    @property
    def losses(self) -> Iterator[str]:
        """Say what was lost or came back changed, a line each."""
        for name, idle in self.idle.items():
            if idle.lost:
                yield f"{name}: {idle.lost} of {idle.connections} idle connections were closed"
        windows = [("latency", name, echo) for name, slices in self.latency.items() for echo in slices]
        windows += [(f"{size} B", name, echo) for size, echoes in self.echo.items() for name, echo in echoes.items()]
        for what, name, echo in windows:
            if echo.lost or echo.mismatched or not echo.round_trips:
                yield (
                    f"{name}, {what}: {echo.lost} messages lost, {echo.mismatched} came back changed,"
                    f" {echo.round_trips} round trips"
                )

    def latency_us(self, name: str, value: Callable[[EchoResult], float]) -> float:
        """Return the median over the slices."""
        return Spread.of([value(echo) for echo in self.latency[name]]).median


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    program = nginx_program(options.nginx)
    allow_descriptors(2 * max(options.connections, options.idle) + 200)
    facts = machine() | {"nginx": version_of([program, "-v"]).rpartition("/")[2]}
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
        rounds.append(_round(options, program, is_odd=bool(number % 2)))
    print("\n".join(report(facts, options, rounds)))
    write_json(options, facts, {"rounds": [asdict(each) for each in rounds]})
    losses = [line for each in rounds for line in each.losses]
    sys.stderr.writelines(f"{line}\n" for line in losses)
    return 1 if losses else 0


def _round(options: argparse.Namespace, nginx_program: str, *, is_odd: bool) -> Round:
    """Measure all, freshly started and side by side; odd rounds take them the other way round."""
    generator = Generator(options.wsload, min(1.0, options.seconds), options.rate)
    alone = Generator(options.wsload, generator.warmup_s / 4)
    with _peers(options, nginx_program) as (direct, balancers):
        if is_odd:
            balancers.reverse()
        done = Round(_at_rest(balancers, options.seconds))
        for peer in balancers:
            done.idle[peer.name] = generator.idle(peer, options.idle)
        for _ in range(LATENCY_SLICES):
            for peer in (*direct, *balancers):
                echo = alone.echo(peer, 1, LATENCY_SIZE, min(options.seconds, LATENCY_MOST_S))
                done.latency.setdefault(peer.name, []).append(echo)
        for size in options.sizes:
            done.echo[size] = {
                peer.name: generator.echo(peer, options.connections, size, options.seconds) for peer in balancers
            }
    return done


@contextmanager
def _peers(options: argparse.Namespace, nginx_program: str) -> Iterator[tuple[list[Peer], list[Peer]]]:
    """Run the servers behind the balancers, and the balancers; nothing of them is left afterwards."""
    most = max(options.connections, options.idle)
    with scratch("relay") as directory, ExitStack() as started:
        backend = started.enter_context(echo_backend(directory, options.wsecho))
        balancers = [
            started.enter_context(nginx(directory, nginx_program, backend, most, options.nginx_buffer)),
            started.enter_context(flotilla(directory, backend)),
        ]
        handing = started.enter_context(stack(directory, HANDOFF))
        yield [replace(backend, name=DIRECT), handing.straight_to_node(NODE)], [*balancers, handing.peer]


def _at_rest(balancers: Sequence[Peer], for_s: float) -> dict[str, float]:
    """Return how many µs of CPU time a second each takes while nobody is connected."""

    def used_s() -> list[float]:
        return [cpu_s(balancer_of(peer.pid, peer.node_pid)) for peer in balancers]

    before, started = used_s(), time.perf_counter()
    time.sleep(for_s)
    after, passed_s = used_s(), time.perf_counter() - started
    return {
        peer.name: (later - earlier) / passed_s * 1e6
        for peer, earlier, later in zip(balancers, before, after, strict=True)
    }


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Flotilla's balancer beside nginx, one worker each: median of all rounds (lowest to highest)"
    load = f"open loop, {options.rate:g} messages/s" if options.rate else "closed loop, 1 message in flight on each"
    yield from table.heading(
        facts
        | {
            "generator": options.wsload or "benchmarks/load.py",
            "backend": f"{options.wsecho or 'benchmarks/echo.py'}; with handoff: a node running benchmarks/echo_app.py",
            "load": f"{options.connections} connections, {load}; {options.rounds} rounds of {options.seconds:g} s",
        }
    )
    ours = (NGINX, TUNNEL, f"{TUNNEL} / {NGINX}", HANDOFF, f"{HANDOFF} / {NGINX}")
    yield ""
    yield table.line("CPU µs per round trip", *ours)
    for size in options.sizes:
        yield _line(f"  {size} B", rounds, _of_size(size, lambda echo: echo.cpu_us), 2)
    yield "  less what each takes at rest:"
    for size in options.sizes:
        yield _line(f"  {size} B", rounds, partial(Round.added_cpu_us, size=size), 2)
    yield _line("CPU µs per second, at rest", rounds, lambda each, name: each.rest_us_per_s[name], 0)
    yield ""
    yield table.line("round trips per second", *ours)
    for size in options.sizes:
        yield _line(f"  {size} B", rounds, _of_size(size, lambda echo: echo.per_second), 0)
    yield ""
    yield table.line("KiB per idle connection", *ours) + f"   ({options.idle} connections)"
    yield _line("  PSS", rounds, lambda each, name: each.idle[name].pss_kib_per_connection, 2)
    yield _line("  RSS", rounds, lambda each, name: each.idle[name].rss_kib_per_connection, 2)
    yield _line("MiB of PSS, before", rounds, lambda each, name: each.idle[name].pss_kib_before / 1024, 1)
    yield ""
    yield from _latencies(rounds)


def _of_size(size: int, value: Callable[[EchoResult], float]) -> Callable[[Round, str], float]:
    return lambda each, name: value(each.echo[size][name])


def _latencies(rounds: Sequence[Round]) -> Iterator[str]:
    yield table.line("latency, µs", DIRECT, NGINX, TUNNEL, NODE, HANDOFF) + f"   (one connection, {LATENCY_SIZE} B)"
    percentiles: dict[str, Callable[[EchoResult], float]] = {
        "p50": lambda echo: echo.p50_us,
        "p99": lambda echo: echo.p99_us,
    }
    for percentile, value in percentiles.items():
        found = {name: [each.latency_us(name, value) for each in rounds] for name in (DIRECT, NODE, *BALANCERS)}
        cells = [table.shown(found[name], 0) for name in (DIRECT, NGINX, TUNNEL, NODE, HANDOFF)]
        yield table.line(f"  {percentile}", *cells)
        added = {
            name: table.shown([with_it - without for with_it, without in zip(found[name], found[base], strict=True)], 0)
            for name, base in ((NGINX, DIRECT), (TUNNEL, DIRECT), (HANDOFF, NODE))
        }
        yield table.line(f"  {percentile}, added", "", added[NGINX], added[TUNNEL], "", added[HANDOFF])


def _line(name: str, rounds: Sequence[Round], value: Callable[[Round, str], float], digits: int) -> str:
    found = {peer: [value(each, peer) for each in rounds] for peer in BALANCERS}
    cells = [table.shown(found[NGINX], digits)]
    for peer in (TUNNEL, HANDOFF):
        cells += [table.shown(found[peer], digits), table.ratio(found[peer], found[NGINX], digits=3)]
    return table.line(name, *cells)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/relay.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=whole(1), default=100, help="that send, at once [100]")
    parser.add_argument("--sizes", type=_sizes, default=(32, 1024, 65536), help="message sizes, bytes [32,1024,65536]")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="measured per size and peer [5]")
    parser.add_argument("--rounds", type=whole(1), default=3, help="each starts both afresh [3]")
    parser.add_argument("--idle", type=whole(1), default=1000, help="silent connections for the memory figure [1000]")
    parser.add_argument("--rate", type=rate, default=0.0, help="messages/s in all, open loop; 0: closed loop [0]")
    parser.add_argument("--nginx-buffer", type=whole(0), default=0, help="KiB; 0: nginx's own default, a page [0]")
    parser.add_argument("--wsecho", default=os.environ.get("FLOTILLA_WSECHO"), help="echo backend to use instead")
    add_common(parser)
    return parser.parse_args(arguments)


def _sizes(text: str) -> tuple[int, ...]:
    # 16 bytes hold the number of the connection and of its message, by which an echo is told from another's.
    return tuple(whole(16)(part.strip()) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
