"""May the balancer die?  `kill -9` of its worker, ten times in a row, while thousands of WebSockets talk.

    python benchmarks/survival.py [--connections 5000] [--kills 10] [--arrivals 20] [--json FILE]

Exit status: 0 if nothing was dropped, lost, doubled, changed, out of order or refused; 1 if anything was; 2 if the
benchmark cannot run.  README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table
from benchmarks.command_line import rate, run, scratch, seconds, whole, write_json
from benchmarks.measure import BenchmarkError, allow_descriptors, family, machine
from benchmarks.peers import Peer, environment, undisturbed
from benchmarks.results import TalkResult
from benchmarks.stacks import HANDOFF, RESTART, TUNNEL, Stack, stack

OPEN_S, END_S = 90.0, 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return run(options, lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    # The balancer needs two for each that it tunnels; talkers, balancer and node are processes of their own.
    allow_descriptors((2 if options.path == TUNNEL else 1) * options.connections + 200)
    facts = machine()
    with (
        scratch("survival") as directory,
        stack(directory, options.path) as started,
        _talkers(started.peer, options) as talk,
    ):
        node_before = started.children()[started.node()["name"]]
        gaps_s = [_kill(started, number, options) for number in range(1, options.kills + 1)]
        time.sleep(options.pause)
        result = _ended(talk)
        node_restarts = started.children()[node_before.name].restarts - node_before.restarts
    print("\n".join(report(facts, options, result, gaps_s)))
    write_json(options, facts, {"result": asdict(result), "gaps_s": gaps_s})
    faults = list(faults_in(result, node_restarts))
    sys.stderr.writelines(f"{line}\n" for line in faults)
    return 1 if faults else 0


def _kill(started: Stack, number: int, options: argparse.Namespace) -> float:
    """Kill the worker that serves; return after how many seconds the next one did."""
    time.sleep(options.pause)
    pid = started.worker().pid
    if pid is None or pid not in family(started.peer.pid):
        raise BenchmarkError(f"the worker, process {pid}, is no child of the stack's")
    os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    successor = started.next_worker(pid)
    gap_s = time.monotonic() - killed_at
    print(f"kill {number} of {options.kills}: worker {pid}, then {successor.pid} after {gap_s:.2f} s", file=sys.stderr)
    return gap_s


@contextmanager
def _talkers(peer: Peer, options: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Run the talkers; all of them talk when the block begins."""
    command = [sys.executable, "-m", "benchmarks.talk", "--port", str(peer.port), "--path", peer.path]
    command += ["--connections", str(options.connections), "--rate", str(options.rate)]
    command += ["--arrivals", str(options.arrivals)]
    with undisturbed():
        process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C on the terminal is ours to handle.
            start_new_session=True,
        )
    with process:
        try:
            _await_open(process)
            yield process
        finally:
            process.kill()


def _await_open(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], OPEN_S)
    said = process.stdout.readline() if readable else ""
    if said != "open\n":
        process.kill()
        _, errors = process.communicate()
        raise BenchmarkError(f"the talkers do not talk: {errors.strip() or f'not within {OPEN_S:g} s'}")


def _ended(process: subprocess.Popen[str]) -> TalkResult:
    """Let the talkers finish; return what they found.  Raises BenchmarkError."""
    try:
        said, errors = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"the talkers did not end in {END_S:g} s") from None
    if process.returncode or not said.startswith("{"):
        raise BenchmarkError(f"the talkers ended with status {process.returncode}: {errors.strip()}")
    found = json.loads(said)
    return TalkResult(**found | {"reasons": tuple(found["reasons"])})


def faults_in(result: TalkResult, node_restarts: int = 0) -> Iterator[str]:
    """Say what must not have happened, a line each.

    A request that was in the hands of a killed worker dies with it; its client may try again.  That is told, and no
    fault: no process can answer after SIGKILL.
    """
    faults = {
        "connections dropped": result.dropped,
        "messages lost": result.lost,
        "messages doubled": result.duplicated,
        "messages out of order": result.reordered,
        "connections on which something else came": result.changed,
        "new connections refused": result.refused,
        "new connections answered with something else than 101": result.rejected,
        "new connections lost after their 101": result.broken,
        "new connections that waited in vain": result.timed_out,
        "restarts of the node": node_restarts,
    }
    found = [f"{count} {what}" for what, count in faults.items() if count]
    if not result.sent:
        found.append("no message was sent")
    yield from found
    if found:
        yield from (f"  a new connection: {reason}" for reason in result.reasons)


def report(
    facts: dict[str, str], options: argparse.Namespace, result: TalkResult, gaps_s: Sequence[float]
) -> Iterator[str]:
    """Yield the lines that the user reads."""
    yield f"{options.kills} × kill -9 of the balancer's only worker; WebSockets go by {options.path}"
    load = f"{options.connections} connections, {options.rate:g} messages/s; {options.arrivals:g} new connections/s"
    restart = f"after {RESTART['first_delay_s']:g} to {RESTART['most_delay_s']:g} s (the delay of a restart)"
    yield from table.heading(facts | {"load": load, "next worker": restart})
    yield ""
    yield f"{result.connections} WebSockets that talk"
    yield f"  {result.dropped:>8}  dropped"
    yield f"  {result.sent:>8}  messages sent"
    yield f"  {result.lost:>8}  lost"
    yield f"  {result.duplicated:>8}  doubled"
    yield f"  {result.reordered:>8}  out of order"
    yield f"  {result.changed:>8}  connections on which something else came"
    yield f"  {result.slowest_echo_s:>8.3f}  s for the slowest echo"
    yield f"{result.arrived} WebSockets that arrived meanwhile"
    yield f"  {result.refused:>8}  refused (ECONNREFUSED)"
    yield f"  {result.rejected + result.broken + result.timed_out:>8}  failed otherwise"
    yield f"  {result.cut:>8}  closed before an answer: their request was in the killed worker's hands"
    yield f"  {result.median_wait_s:>8.3f}  s until the 101, median"
    yield f"  {result.longest_wait_s:>8.3f}  s until the 101, longest"
    if gaps_s:
        yield f"without a worker: {median(gaps_s):.2f} s (median), {max(gaps_s):.2f} s (longest)"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/survival.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=whole(1), default=5000, help="that talk [5000]")
    parser.add_argument("--rate", type=rate, default=2500.0, help="messages/s of all together [2500]")
    parser.add_argument("--arrivals", type=rate, default=20.0, help="new connections/s [20]")
    parser.add_argument("--kills", type=whole(1), default=10, help="of the worker, one after the other [10]")
    parser.add_argument("--pause", type=seconds, default=1.0, help="between a worker's start and its end, s [1]")
    parser.add_argument("--path", choices=(HANDOFF, TUNNEL), default=HANDOFF, help=f"to compare: {TUNNEL} [{HANDOFF}]")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
