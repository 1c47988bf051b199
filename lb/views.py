"""What the admin API says, as plain values ready for JSON.  No I/O: pool, counters and reports are arguments.

What a node does not say of itself is null: unknown is not zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.member import State
from lb.crowd import MOST
from lb.entrance import reason
from lb.metrics import NodeCounts, Totals
from lb.pool import Node, Pool
from lb.reports import Worker

GIVEN_UP = "given_up"
"""State of a child that the supervisor starts no more (cluster/child.py)."""

_SAID = (
    "incarnation",
    "version",
    "users",
    "memory_bytes",
    "cpu_percent",
    "loop_lag_ms",
    "messages_in",
    "messages_out",
)
"""Fields of a node's record that are shown as they are."""


@dataclass(frozen=True)
class ChildReport:
    """A process that the supervisor runs, as its report shows it."""

    name: str
    state: str = ""
    pid: int | None = None
    restarts: int = 0
    reason: str = ""
    adopted: bool = False
    """It was started by a supervisor that is no more."""


def children_in(report: Mapping[str, Any] | None) -> list[ChildReport]:
    """Read the supervisor's report (cluster/supervisor.py); no report is no children."""
    children = report.get("children", []) if report else []
    return [
        ChildReport(
            name=str(child["name"]),
            state=str(child.get("state", "")),
            pid=child.get("pid"),
            restarts=int(child.get("restarts", 0)),
            reason=str(child.get("reason") or ""),
            adopted=bool(child.get("adopted")),
        )
        for child in children
    ]


def nodes_view(
    nodes: Iterable[Node], totals: Totals, children: Iterable[ChildReport], now: float
) -> list[dict[str, Any]]:
    """Return all nodes by name, as `GET /api/nodes` shows them at `now` (monotonic seconds)."""
    ours = {child.name: child for child in children}
    counted = totals.nodes
    return [
        _node_view(node, counted.get(node.name, NodeCounts()), ours.get(node.name), now)
        for node in sorted(nodes, key=lambda node: node.name)
    ]


def _node_view(node: Node, counts: NodeCounts, child: ChildReport | None, now: float) -> dict[str, Any]:
    record = node.record
    said = {name: getattr(record, name) if record is not None else None for name in _SAID}
    return {
        "name": node.name,
        "host": node.host,
        "port": node.port,
        "pid": record.pid if record is not None else child and child.pid,
        "state": node.state,
        "reason": node.reason,
        "since_s": round(now - node.since, 3),
        "path": node.path,
        "weight": node.weight,
        "degraded": node.degraded,
        "drain": None if node.drain is None else asdict(node.drain),
        "static": node.static,
        "adopted": child is not None and child.adopted,
        # Where a node does not count, we only know the WebSockets that we carry to it.
        "connections": record.connections if record is not None else counts.open,
        "tunnels": counts.tunnels_open,
        "handoffs": counts.handoffs_open,
        "exchanges": sum(counts.exchanges),
        "connect_failures": counts.connect_failures,
        "uptime_s": record.uptime_s if record is not None else None,
        **said,
    }


def warnings(pool: Pool, workers: Collection[Worker] = ()) -> list[str]:
    """Return what an operator should know although everything goes on."""
    found = []
    if pool.in_panic:
        found.append("too few nodes are well: clients are sent to all that answer")
    cut_off = sorted(node.name for node in pool if node.degraded)
    if cut_off:
        found.append(f"without Redis, so apart from the others: {', '.join(cut_off)}")
    found += sorted({problem for worker in workers for each in worker.certificates for problem in each.problems})
    crowded = max(workers, key=lambda worker: worker.hash_share, default=None)
    if crowded is not None and crowded.hash_share >= MOST:
        found.append(reason(crowded.hash_key, crowded.hash_share))
    return found


def health_view(
    pool: Pool, children: Iterable[ChildReport], redis: str, workers: Collection[Worker] = ()
) -> tuple[int, dict[str, Any]]:
    """Return status and body of `GET /healthz`: 200 while a node gets clients and no child has been given up.

    A Redis that is away is shown and is no reason for 503: everything goes on with what is known.
    """
    states = Counter(node.state for node in pool)
    shown = list(children)
    problems = [f"{child.name} was given up: {child.reason}" for child in shown if child.state == GIVEN_UP]
    if not any(node.takes_new for node in pool):
        known = ", ".join(f"{count} {state}" for state, count in states.items())
        problems.insert(0, f"no node is ready ({known or 'none known'})")
    return 503 if problems else 200, {
        "status": "failing" if problems else "ok",
        "problems": problems,
        "warnings": warnings(pool, workers),
        "nodes": {state: states[state] for state in State},
        "children": [
            {"name": child.name, "state": child.state, "pid": child.pid, "restarts": child.restarts} for child in shown
        ],
        "redis": redis,
    }
