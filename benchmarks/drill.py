"""How soon is a node that cannot be reached out, how soon is it back, and what do clients notice?

    python benchmarks/drill.py [--rounds 3] [--interval 2] [--timeout 2] [--rise 1] [--fall 3]

Six nodes, each behind a link that can have every fault of a network, and one balancer worker with the default settings
of `lb.health`.  New clients come all the time, 25 a second, over WebSocket and long polling in turn.  Each fault lasts
until the balancer knows of it, and for two seconds more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command_line import run, scratch, seconds, whole, write_json
from benchmarks.measure import machine
from benchmarks.table import heading, line, shown
from cluster.config import Health
from tests.support.drill import Drill, drill, six_nodes
from tests.support.faulty_link import HALF_OPEN, HANGS, REFUSES, RESETS, UNREACHABLE, WELL, Condition
from tests.support.visitors import Visitors, visitors
from tests.support.waiting import eventually

FAULTS: Mapping[str, Condition] = {
    "refuses": REFUSES,
    "resets": RESETS,
    "does not answer a SYN": UNREACHABLE,
    "accepts and hangs": HANGS,
    "half open": HALF_OPEN,
}
STAYS_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """What one fault cost.  Times in seconds."""

    out_s: float
    back_s: float
    clients: int
    """Who came from the beginning of the fault until the node was back."""
    failed: int
    slowest_s: float
    sent_there: int
    """Clients that came while the node was known to be dead, and were sent there all the same."""


async def suffer(scene: Drill, stream: Visitors, number: int, fault: Condition) -> Outcome:
    """Let one link have a fault, and heal."""
    link = scene.links[number]
    began = await link.becomes(fault)
    [out] = await scene.became(number, "down", began, within_s=120)
    await eventually(lambda: any(made.began > out["at"] + STAYS_S for made in stream.visits))
    healed = await link.becomes(WELL)
    [back] = await scene.became(number, "ready", healed, within_s=120)
    clients = [made for made in stream.visits if began <= made.began <= back["at"]]
    await eventually(lambda: stream.all_over(back["at"]), within_s=30)
    late = {made.number for made in clients if out["at"] < made.began < healed}
    return Outcome(
        out_s=out["at"] - began,
        back_s=back["at"] - healed,
        clients=len(clients),
        failed=sum(bool(made.fault) for made in clients),
        slowest_s=max(made.seconds for made in clients),
        sent_there=sum(made.visitor in late for made in link.visitors if made.at < back["at"]),
    )


def bounds(health: Health) -> tuple[float, float]:
    """Return how soon a silent node is out at the latest, and how soon it is back: docs/health.md says why."""
    every_s, timeout_s = 1.1 * health.interval_s, health.timeout_s
    out_s = every_s + (health.fall - 1) * max(every_s, timeout_s) + timeout_s
    return out_s, max(every_s, timeout_s) + (health.rise - 1) * every_s


async def measured(
    directory: Path, health: Health, faults: Mapping[str, Condition], rounds: int
) -> dict[str, list[Outcome]]:
    """Return what each fault cost in each round, each on another node."""
    lb = {"workers": 1, "connect_timeout_s": 3.0}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in faults}
    async with AsyncExitStack() as running:
        nodes = await running.enter_async_context(six_nodes(directory))
        for _ in range(rounds):
            async with drill(directory, nodes, health.model_dump(), lb=lb) as scene, visitors(scene.port) as stream:
                for number, (name, fault) in enumerate(faults.items()):
                    outcomes[name].append(await suffer(scene, stream, number, fault))
    return outcomes


def table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Return the figures as text."""
    rows = [line("the link", "out after s", "back after s", "clients, failed", "slowest client s")]
    for name, rounds in outcomes.items():
        clients, failed = sum(each.clients for each in rounds), sum(each.failed for each in rounds)
        out, back, slowest = (
            shown([getattr(each, field) for each in rounds], 1) for field in ("out_s", "back_s", "slowest_s")
        )
        rows.append(line(name, out, back, f"{clients}, {failed}", slowest))
    return "\n".join(rows)


def measure_all(options: argparse.Namespace) -> int:
    health = Health(interval_s=options.interval, timeout_s=options.timeout, rise=options.rise, fall=options.fall)
    with scratch("drill") as directory:
        faults = {name: fault for name, fault in FAULTS.items() if options.only in (None, name)}
        outcomes = asyncio.run(measured(directory, health, faults, options.rounds))
    facts = machine()
    out_s, back_s = bounds(health)
    print(f"interval_s {health.interval_s:g}, timeout_s {health.timeout_s:g}, rise {health.rise}, fall {health.fall}:")
    print(f"a silent node is out after {out_s:.1f} s at the latest, and back after {back_s:.1f} s and one probe")
    print("\n".join(heading(facts)))
    print()
    print(table(outcomes))
    write_json(options, facts, {name: [asdict(each) for each in rounds] for name, rounds in outcomes.items()})
    everything = [each for rounds in outcomes.values() for each in rounds]
    if any(each.failed or each.sent_there for each in everything):
        sys.stderr.write("clients failed, or were sent to a node that was known to be dead\n")
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=whole(1), default=3, help="how often each fault happens [3]")
    parser.add_argument("--interval", type=seconds, default=2.0, help="lb.health.interval_s [2]")
    parser.add_argument("--timeout", type=seconds, default=2.0, help="lb.health.timeout_s [2]")
    parser.add_argument("--rise", type=whole(1), default=1, help="lb.health.rise [1]")
    parser.add_argument("--fall", type=whole(1), default=3, help="lb.health.fall [3]")
    parser.add_argument("--only", choices=FAULTS, help="one of the faults alone")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    options = parser.parse_args()
    return run(options, lambda: measure_all(options))


if __name__ == "__main__":
    sys.exit(main())
