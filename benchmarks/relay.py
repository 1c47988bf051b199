"""What does the balancer cost?  CPU per WebSocket round trip and memory per connection, beside nginx in one run.

    python benchmarks/relay.py [--connections 100] [--sizes 32,1024,65536] [--seconds 5] [--rounds 3] [--json FILE]

Exit status: 0; 1 if a message was lost or came back changed; 2 if the benchmark cannot run.  README.md beside this file
says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generator import Generator
from benchmarks.load import EchoResult, IdleResult
from benchmarks.measure import BenchmarkError, Spread, allow_descriptors, check_platform, machine, version_of
from benchmarks.peers import Peer, echo_backend, flotilla, nginx, undisturbed

NGINX, FLOTILLA, DIRECT = "nginx", "flotilla", "direct"
LATENCY_SIZE, LATENCY_MOST_S = 32, 2.0


@dataclass(frozen=True)
class Round:
    """Everything that one round measured, by the peer's name."""

    idle: dict[str, IdleResult] = field(default_factory=dict)
    latency: dict[str, EchoResult] = field(default_factory=dict)
    echo: dict[int, dict[str, EchoResult]] = field(default_factory=dict)

    @property
    def losses(self) -> Iterator[str]:
        """Say what was lost or came back changed, a line each."""
        for name, idle in self.idle.items():
            if idle.lost:
                yield f"{name}: {idle.lost} of {idle.connections} idle connections were closed"
        windows = [("latency", self.latency), *((f"{size} B", echoes) for size, echoes in self.echo.items())]
        for what, echoes in windows:
            for name, echo in echoes.items():
                if echo.lost or echo.mismatched or not echo.round_trips:
                    yield (
                        f"{name}, {what}: {echo.lost} messages lost, {echo.mismatched} came back changed,"
                        f" {echo.round_trips} round trips"
                    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        check_platform()
        _check_writable(options.json)
        program = _nginx_program(options.nginx)
        allow_descriptors(2 * max(options.connections, options.idle) + 200)
        facts = machine() | {"nginx": version_of([program, "-v"]).rpartition("/")[2]}
        rounds = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr)
            rounds.append(_round(options, program, is_odd=bool(number % 2)))
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; everything that was started has been ended\n")
        return 130
    print("\n".join(report(facts, options, rounds)))
    if options.json:
        options.json.write_text(json.dumps(as_json(facts, options, rounds), indent=2) + "\n", encoding="utf-8")
    losses = [line for each in rounds for line in each.losses]
    sys.stderr.writelines(f"{line}\n" for line in losses)
    return 1 if losses else 0


def _round(options: argparse.Namespace, nginx_program: str, *, is_odd: bool) -> Round:
    """Measure both, freshly started and side by side; odd rounds take them the other way round."""
    done = Round()
    generator = Generator(options.wsload, min(1.0, options.seconds), options.rate)
    with _peers(options, nginx_program) as (backend, *peers):
        if is_odd:
            peers.reverse()
        for peer in peers:
            done.idle[peer.name] = generator.idle(peer, options.idle)
        alone = Generator(options.wsload, generator.warmup_s)
        for peer in (backend, *peers):
            name = DIRECT if peer is backend else peer.name
            seconds = min(options.seconds, LATENCY_MOST_S)
            done.latency[name] = alone.echo(peer, connections=1, size=LATENCY_SIZE, seconds=seconds)
        for size in options.sizes:
            done.echo[size] = {
                peer.name: generator.echo(peer, options.connections, size, options.seconds) for peer in peers
            }
    return done


@contextmanager
def _peers(options: argparse.Namespace, nginx_program: str) -> Iterator[list[Peer]]:
    """Run the backend, nginx and Flotilla; nothing of them is left afterwards."""
    with ExitStack() as stack:
        with undisturbed():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flotilla-relay-")))
        backend = stack.enter_context(echo_backend(directory, options.wsecho))
        most = max(options.connections, options.idle)
        yield [
            backend,
            stack.enter_context(nginx(directory, nginx_program, backend, most, options.nginx_buffer)),
            stack.enter_context(flotilla(directory, backend)),
        ]


def report(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield "Flotilla's balancer beside nginx, one worker each: median of all rounds (lowest to highest)"
    yield from (f"  {name:<12}{text}" for name, text in facts.items())
    yield f"  {'generator':<12}{options.wsload or 'benchmarks/load.py'}"
    yield f"  {'backend':<12}{options.wsecho or 'benchmarks/echo.py'}"
    load = f"open loop, {options.rate:g} messages/s" if options.rate else "closed loop, 1 message in flight on each"
    yield f"  {'load':<12}{options.connections} connections, {load}; {options.rounds} rounds of {options.seconds:g} s"
    yield ""
    yield f"{'CPU µs per round trip':<24}{'nginx':>22}{'Flotilla':>22}{'ratio':>20}{'round trips/s':>20}"
    for size in options.sizes:
        yield _size_line(size, rounds)
    yield ""
    yield f"{'KiB per idle connection':<24}{'nginx':>22}{'Flotilla':>22}{'ratio':>20}   ({options.idle} connections)"
    yield f"  {'PSS':<22}{_columns(rounds, lambda each, name: each.idle[name].pss_kib_per_connection)}"
    yield f"  {'RSS':<22}{_columns(rounds, lambda each, name: each.idle[name].rss_kib_per_connection)}"
    yield f"  {'MiB of PSS before':<22}{_columns(rounds, lambda each, name: each.idle[name].pss_kib_before / 1024)}"
    yield ""
    yield f"{'latency, µs':<24}{'nginx':>22}{'Flotilla':>22}{'direct':>20}   (one connection, {LATENCY_SIZE} B)"
    yield f"  {'p50':<22}{_latencies(rounds, lambda echo: echo.p50_us)}"
    yield f"  {'p99':<22}{_latencies(rounds, lambda echo: echo.p99_us)}"


def _latencies(rounds: Sequence[Round], value: Callable[[EchoResult], float]) -> str:
    columns = [
        _shown(Spread.of([value(each.latency[name]) for each in rounds]), 0) for name in (NGINX, FLOTILLA, DIRECT)
    ]
    return f"{columns[0]:>22}{columns[1]:>22}{columns[2]:>20}"


def _size_line(size: int, rounds: Sequence[Round]) -> str:
    def per_second(name: str) -> float:
        return Spread.of([each.echo[size][name].round_trips / each.echo[size][name].seconds for each in rounds]).median

    columns = _columns(rounds, lambda each, name: each.echo[size][name].cpu_us)
    return f"  {f'{size} B':<22}{columns}{per_second(NGINX):>11.0f} | {per_second(FLOTILLA):.0f}"


def _columns(rounds: Sequence[Round], value: Callable[[Round, str], float]) -> str:
    """Return three columns: nginx, Flotilla, and their ratio within each round."""
    columns = ""
    for name in (NGINX, FLOTILLA):
        columns += f"{_shown(Spread.of([value(each, name) for each in rounds]), 1):>22}"
    return columns + f"{_ratio_shown([(value(each, FLOTILLA), value(each, NGINX)) for each in rounds]):>20}"


def _shown(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})"


def _ratio_shown(pairs: Sequence[tuple[float, float]]) -> str:
    # Rounds run side by side, so a ratio is taken within each: what slows both in a round does not count.
    ratios = [ours / theirs for ours, theirs in pairs if theirs > 0]
    return _shown(Spread.of(ratios), 2) if ratios else "-"  # too little for the clock tick, or nothing at all


def as_json(facts: dict[str, str], options: argparse.Namespace, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return everything that was measured, unrounded."""
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    return {"facts": facts, "settings": settings, "rounds": [asdict(each) for each in rounds]}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/relay.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=_whole(1), default=100, help="that send, at once [100]")
    parser.add_argument("--sizes", type=_sizes, default=(32, 1024, 65536), help="message sizes, bytes [32,1024,65536]")
    parser.add_argument("--seconds", type=_seconds, default=5.0, help="measured per size and peer [5]")
    parser.add_argument("--rounds", type=_whole(1), default=3, help="each starts both afresh [3]")
    parser.add_argument("--idle", type=_whole(1), default=1000, help="silent connections for the memory figure [1000]")
    parser.add_argument("--rate", type=_rate, default=0.0, help="messages/s in all, open loop; 0: closed loop [0]")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--nginx", default="nginx", help="the nginx program [nginx]")
    parser.add_argument("--nginx-buffer", type=_whole(0), default=0, help="KiB; 0: nginx's own default, a page [0]")
    parser.add_argument("--wsload", default=os.environ.get("FLOTILLA_WSLOAD"), help="load generator to use instead")
    parser.add_argument("--wsecho", default=os.environ.get("FLOTILLA_WSECHO"), help="echo backend to use instead")
    return parser.parse_args(arguments)


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def _sizes(text: str) -> tuple[int, ...]:
    # 16 bytes hold the number of the connection and of its message, by which an echo is told from another's.
    return tuple(_whole(16)(part.strip()) for part in text.split(","))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0 and at most 3600")
    return seconds


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1e7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of messages a second")
    return rate


def _check_writable(file: Path | None) -> None:
    # Minutes of measuring must not end in a file that cannot be written.
    if file is not None and not (os.access(file.parent, os.W_OK) if not file.exists() else os.access(file, os.W_OK)):
        raise BenchmarkError(f"{file} cannot be written")


def _nginx_program(name: str) -> str:
    # Debian puts it where only root's PATH leads.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchmarkError(f"there is no {name}; install it (apt install nginx-light), or name it with --nginx")
    return found


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
