"""On what terms nodes get clients, as the configuration says.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from cluster.config import Config
from lb.conduct import Rules
from lb.nodes import Node
from lb.pacing import Pace

SMOOTHING = 0.3
"""Weight of the newest report in a node's lag: one collection of garbage is no overload."""

FREE_LAG_MS = 10.0
DOUBLING_LAG_MS = 100.0
"""A node this late above FREE_LAG_MS counts as if it had twice the clients."""

MANY = 100
"""Clients that a node must have before what it suffers from is put down to them, in full."""

FREE_MEMORY = 1.5
"""How many times the usual memory of the nodes a node may have, before a client there counts for more."""


@dataclass(frozen=True)
class Terms:
    """`share` is the part of the limits that is this worker's: all workers of a stack count for themselves."""

    weights: dict[str, float] = field(default_factory=dict)
    most_connections: int = 0
    handshakes_per_s: float = 0.0
    share: float = 1.0
    slow_start_s: float = 0.0
    panic_percent: int = 0
    slow_handshake_s: float = 0.0
    rules: Rules = field(default_factory=Rules)

    @classmethod
    def of(cls, config: Config, workers: int = 1) -> Terms:
        nodes, lb, health = config.nodes, config.lb, config.lb.health
        return cls(
            weights=dict(nodes.weights),
            most_connections=nodes.max_connections,
            handshakes_per_s=nodes.handshakes_per_s,
            share=1 / workers,
            slow_start_s=lb.slow_start_s,
            panic_percent=health.panic_percent,
            slow_handshake_s=health.slow_handshake_s,
            rules=Rules(health.eject_after, health.eject_s, health.most_eject_s),
        )

    def apply(self, node: Node) -> None:
        """Give a node that joins, or is known better now, its terms."""
        address = f"{node.host}:{node.port}"
        named = (self.weights[name] for name in (node.name, *node.former_names, address) if name in self.weights)
        node.weight = next(named, 1.0)
        node.burden = 1 / node.weight

    def welcome(self, node: Node) -> None:
        """Give a node that is new in the pool a pace of its own."""
        node.pace = Pace(self.handshakes_per_s * self.share)
        self.limit(node)
        self.apply(node)

    def limit(self, node: Node) -> None:
        """Set how many clients it may have; where it does not count itself, each worker sees to its own share."""
        if self.most_connections and node.record is None:
            node.most = max(1, int(self.most_connections * self.share))
        else:
            node.most = self.most_connections


def smoothed(before_ms: float, reported_ms: float) -> float:
    """Return the lag to go by, after one more report."""
    return before_ms + SMOOTHING * (reported_ms - before_ms)


def weigh(nodes: list[Node]) -> None:
    """Set what a client of each node weighs, by what they all say of themselves now."""
    usual = median([node.record.memory_bytes for node in nodes if node.record is not None] or [0])
    for node in nodes:
        lag = max(0.0, node.lag_ms - FREE_LAG_MS) / DOUBLING_LAG_MS
        memory = node.record.memory_bytes / usual if node.record is not None and usual else 1.0
        suffering = (1 + lag) * (1 + max(0.0, memory - FREE_MEMORY)) - 1
        node.burden = (1 + suffering * min(1.0, node.connections / MANY)) / node.weight
