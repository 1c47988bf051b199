"""What does plain HTTP cost?  Our balancer beside nginx, HAProxy and a naive aiohttp proxy in one run, one worker each.

    python benchmarks/http.py [--rounds 10] [--seconds 2] [--only requests] [--proxies flotilla,naive] [--json FILE]

Small answers over kept connections, and long bodies either way, with a length and chunked, read fast and slowly.

Exit status: 0; 1 if an answer or a body was not what it must be; 2 if the benchmark cannot run.  README.md beside this
file says what each figure means.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import nginx_program, rate, run, scratch, seconds, whole, write_json
from benchmarks.generator import found_by
from benchmarks.measure import Spread, allow_descriptors, machine, version_of
from benchmarks.peers import Peer
from benchmarks.web.load import CHUNKED, DOWNLOAD, LENGTH, UPLOAD
from benchmarks.web.peers import FLOTILLA, HAPROXY, NAIVE, NAIVE_ASYNCIO, NGINX, Programs, backend, proxy
from benchmarks.web.results import RequestResult, StreamResult

REQUESTS, STREAM = QUESTIONS = ("requests", "stream")
PROXIES = (NGINX, HAPROXY, FLOTILLA, NAIVE, NAIVE_ASYNCIO)
STREAMERS = (NGINX, HAPROXY, FLOTILLA, NAIVE)
FAST, SLOW = "fast", "slow"
STREAMS = tuple(
    (direction, framing, reader)
    for direction in (DOWNLOAD, UPLOAD)
    for framing in (LENGTH, CHUNKED)
    for reader in (FAST, SLOW)
)
WARM_UP_S = 0.5
CPU_BUDGET = 0.4
"""What the median of flotilla / naive may be."""

GROWTH_BUDGET_MIB = 8.0
"""How much more memory than before a body may take, however long it is."""

Stream = tuple[str, str, str]


@dataclass(frozen=True)
class Round:
    """Everything that one round measured, by the proxy's name."""

    requests: dict[str, RequestResult] = field(default_factory=dict)
    streams: dict[Stream, dict[str, StreamResult]] = field(default_factory=dict)

    @property
    def faults(self) -> Iterator[str]:
        """Say what went wrong, a line each."""
        for name, result in self.requests.items():
            if result.failed or not result.requests:
                yield f"{name}: {result.failed} requests failed, {result.requests} were answered"
        for stream, results in self.streams.items():
            for name, carried in results.items():
                if carried.fault:
                    yield f"{name}, {' '.join(stream)}: {carried.fault}"

    def as_json(self) -> dict[str, Any]:
        return {
            REQUESTS: {name: asdict(result) for name, result in self.requests.items()},
            STREAM: {
                " ".join(stream): {name: asdict(result) for name, result in results.items()}
                for stream, results in self.streams.items()
            },
        }


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    programs = _programs(options)
    allow_descriptors(2 * options.connections + 200)
    facts = machine() | {name: _version(name, programs) for name in (NGINX, HAPROXY) if name in options.proxies}
    rounds = _rounds(options, programs)
    print("\n".join(report(facts, options, rounds)))
    write_json(options, facts, {"rounds": [each.as_json() for each in rounds]})
    faults = [line for each in rounds for line in each.faults]
    sys.stderr.writelines(f"{line}\n" for line in faults)
    return 1 if faults else 0


def _programs(options: argparse.Namespace) -> Programs:
    """Return where nginx and HAProxy are.  The latter is left out if there is none."""
    found = {NGINX: nginx_program(options.nginx)} if NGINX in options.proxies else {}
    haproxy = shutil.which(options.haproxy) or shutil.which(options.haproxy, path="/usr/sbin:/usr/local/sbin")
    return found | ({HAPROXY: haproxy} if haproxy and HAPROXY in options.proxies else {})


def _version(name: str, programs: Programs) -> str:
    if name not in programs:
        return "not installed"
    return version_of([programs[name], "-v"], line=0).rpartition("version ")[2]


def _rounds(options: argparse.Namespace, programs: Programs) -> list[Round]:
    """Measure all side by side, each round beginning with another; bodies in the first round only."""
    names = [name for name in options.proxies if name in programs or name not in (NGINX, HAPROXY)]
    with scratch("http") as directory, ExitStack() as started:
        behind = started.enter_context(backend(directory))
        running = [started.enter_context(proxy(name, directory, programs, behind)) for name in names]
        rounds = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
            first = number % len(running)
            order = running[first:] + running[:first]
            done = Round()
            if REQUESTS in options.only:
                done.requests.update({peer.name: _ask(peer, options) for peer in order})
            if STREAM in options.only and number < options.stream_rounds:
                for stream in STREAMS:
                    carriers = [peer for peer in order if peer.name in STREAMERS]
                    done.streams[stream] = {peer.name: _carry(peer, stream, options) for peer in carriers}
            rounds.append(done)
        return rounds


def _ask(peer: Peer, options: argparse.Namespace) -> RequestResult:
    command = [*_load(REQUESTS, peer), "--connections", str(options.connections), "--seconds", str(options.seconds)]
    warmup_s = min(WARM_UP_S, options.seconds)
    return RequestResult(**found_by([*command, "--warmup", str(warmup_s)], options.seconds + warmup_s))


def _carry(peer: Peer, stream: Stream, options: argparse.Namespace) -> StreamResult:
    direction, framing, reader = stream
    mib_per_s = options.slow if reader == SLOW else 0.0
    command = [*_load(STREAM, peer), "--direction", direction, "--framing", framing, "--mib", str(options.mib)]
    most_s = options.mib / (mib_per_s or 20.0)
    return StreamResult(**found_by([*command, "--mib-per-s", str(mib_per_s)], most_s))


def _load(mode: str, peer: Peer) -> list[str]:
    return [sys.executable, "-m", "benchmarks.web.load", mode, "--port", str(peer.port), "--pid", str(peer.pid)]


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Plain HTTP through a proxy, one worker each: median of all rounds (lowest to highest)"
    load = f"{options.connections} connections, one request under way on each, 100 B answers"
    yield from table.heading(facts | {"load": f"{load}; {options.rounds} rounds of {options.seconds:g} s"})
    if REQUESTS in options.only:
        yield ""
        yield from _of_requests(options.proxies, [each.requests for each in rounds])
    if STREAM in options.only:
        yield ""
        yield from _of_streams(options, [each.streams for each in rounds if each.streams])


def _of_requests(names: Sequence[str], rounds: Sequence[dict[str, RequestResult]]) -> Iterator[str]:
    yield table.line("requests", "CPU µs each", f"{FLOTILLA} / this", "per second", "p50, µs", "p99, µs")

    def values(name: str, value: Callable[[RequestResult], float]) -> list[float]:
        return [value(each[name]) for each in rounds if name in each]

    ours = values(FLOTILLA, lambda each: each.cpu_us)
    for name in names:
        cpu_us = values(name, lambda each: each.cpu_us)
        if not cpu_us:
            yield table.line(f"  {name}", "not installed")
            continue
        yield table.line(
            f"  {name}",
            table.shown(cpu_us, 1),
            table.ratio(ours, cpu_us) if ours and name != FLOTILLA else "",
            table.shown(values(name, lambda each: each.per_second), 0),
            table.shown(values(name, lambda each: each.p50_us), 0),
            table.shown(values(name, lambda each: each.p99_us), 0),
        )
    naive = values(NAIVE, lambda each: each.cpu_us)
    if ours and naive:
        found = Spread.of([one / other for one, other in zip(ours, naive, strict=True)]).median
        verdict = "kept" if found <= CPU_BUDGET else "MISSED"
        yield f"budget: {FLOTILLA} / {NAIVE} ≤ {CPU_BUDGET:g}, found {found:.2f}: {verdict}"


def _of_streams(options: argparse.Namespace, rounds: Sequence[dict[Stream, dict[str, StreamResult]]]) -> Iterator[str]:
    names = [name for name in STREAMERS if name in options.proxies]
    tables: tuple[tuple[str, Callable[[StreamResult], float], int], ...] = (
        ("MiB of RSS, growth", lambda each: each.growth_mib, 1),
        ("CPU µs per MiB", lambda each: each.cpu_us_per_mib, 0),
        ("MiB per second", lambda each: each.mib_per_s, 0),
    )
    slow = f"slow: read at {options.slow:g} MiB/s"
    for title, value, digits in tables:
        yield table.line(title, *names) + f"   (bodies of {options.mib} MiB; {slow})"
        for stream in STREAMS:
            found = {name: [value(each[stream][name]) for each in rounds if name in each[stream]] for name in names}
            cells = [table.shown(found[name], digits) if found[name] else "not installed" for name in names]
            yield table.line(f"  {' '.join(stream)}", *cells)
        yield ""
    grown = [
        result.growth_mib
        for each in rounds
        for results in each.values()
        for name, result in results.items()
        if name == FLOTILLA
    ]
    if grown:
        verdict = "kept" if max(grown) <= GROWTH_BUDGET_MIB else "MISSED"
        yield f"budget: {FLOTILLA} grows by at most {GROWTH_BUDGET_MIB:g} MiB, found {max(grown):.1f}: {verdict}"


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(","))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return found

    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/http.py", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=whole(1), default=10, help="one after the other, order rotated [10]")
    add("--seconds", type=seconds, default=2.0, help="measured per proxy and round [2]")
    add("--connections", type=whole(1), default=64, help="kept open, one request under way on each [64]")
    add("--only", type=_some_of(QUESTIONS), default=QUESTIONS, metavar="A,B", help=f"of {','.join(QUESTIONS)} [all]")
    add("--proxies", type=_some_of(PROXIES), default=PROXIES, metavar="A,B", help=f"of {','.join(PROXIES)} [all]")
    add("--mib", type=whole(1), default=1024, help="length of each long body, in MiB [1024]")
    add("--slow", type=rate, default=100.0, help="MiB/s that a slow reader takes [100]")
    add("--stream-rounds", type=whole(1), default=1, help="in how many rounds long bodies are carried [1]")
    add("--nginx", default="nginx", help="the nginx program [nginx]")
    add("--haproxy", default="haproxy", help="the HAProxy program, if there is one [haproxy]")
    add("--json", type=Path, help="write all measurements to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
