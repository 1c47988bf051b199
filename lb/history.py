"""The last minutes of the cluster, a sample a second, so that a dashboard that is opened now shows what just happened.

Rates come from what nodes say of themselves: messages between two of a node's records over the seconds between them by
the node's own clock.  Samples and heartbeats do not fall together, so counting between samples would show waves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.member import NodeRecord
from lb.pool import Node

KEEP = 300
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Socket.IO packets a second, from clients and to them."""

    messages_in: float
    messages_out: float


@dataclass(frozen=True, slots=True)
class Sample:
    """All nodes together; `at` is wall clock time in seconds, as a page draws it."""

    at: float
    connections: int
    messages_in_per_s: float
    messages_out_per_s: float
    loop_lag_ms: float
    """Of the node that is latest."""


class History:
    """Samples of the nodes of `pool`, the oldest first."""

    def __init__(self, pool: Iterable[Node]) -> None:
        self._pool = pool
        self.samples: deque[Sample] = deque(maxlen=KEEP)
        self._records: dict[str, NodeRecord] = {}
        self._rates: dict[str, Rates] = {}

    async def run(self) -> None:
        """Take a sample each second.  Never returns."""
        while True:
            self.sample(time.time())
            await asyncio.sleep(EVERY_S)

    def sample(self, at: float) -> None:
        """Take one sample."""
        records = {node.name: node.record for node in self._pool if node.record is not None}
        for name, record in records.items():
            self._learn(self._records.get(name), record)
        self._records = records
        self._rates = {name: rates for name, rates in self._rates.items() if name in records}
        self.samples.append(
            Sample(
                at=at,
                connections=sum(_connections(node) for node in self._pool),
                messages_in_per_s=sum(rates.messages_in for rates in self._rates.values()),
                messages_out_per_s=sum(rates.messages_out for rates in self._rates.values()),
                loop_lag_ms=max((record.loop_lag_ms for record in records.values()), default=0.0),
            )
        )

    def rates(self, node: str) -> Rates | None:
        """Return how fast the node's messages come and go now; None if it does not say."""
        return self._rates.get(node)

    def _learn(self, before: NodeRecord | None, now: NodeRecord) -> None:
        if before is None or before.incarnation != now.incarnation:
            self._rates[now.name] = Rates(0.0, 0.0)
            return
        seconds = now.uptime_s - before.uptime_s
        if seconds > 0:
            self._rates[now.name] = Rates(
                max(0, now.messages_in - before.messages_in) / seconds,
                max(0, now.messages_out - before.messages_out) / seconds,
            )


def _connections(node: Node) -> int:
    return node.record.connections if node.record is not None else node.tunnels + node.handed_over
