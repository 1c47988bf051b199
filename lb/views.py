"""What the admin API says, as plain values ready for JSON.  No I/O: pool, counters and reports are arguments.

What a node does not say of itself is null: unknown is not zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.member import State
from lb.metrics import NodeCounts, Totals
from lb.pool import Node

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


def health_view(nodes: Iterable[Node], children: Iterable[ChildReport], redis: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of `GET /healthz`: 200 while a node is ready and no child has been given up.

    A Redis that is away is shown and is no reason for 503: everything goes on with what is known.
    """
    states = Counter(node.state for node in nodes)
    shown = list(children)
    problems = [f"{child.name} was given up: {child.reason}" for child in shown if child.state == GIVEN_UP]
    if not states[State.READY]:
        known = ", ".join(f"{count} {state}" for state, count in states.items())
        problems.insert(0, f"no node is ready ({known or 'none known'})")
    return 503 if problems else 200, {
        "status": "failing" if problems else "ok",
        "problems": problems,
        "nodes": {state: states[state] for state in State},
        "children": [
            {"name": child.name, "state": child.state, "pid": child.pid, "restarts": child.restarts} for child in shown
        ],
        "redis": redis,
    }
