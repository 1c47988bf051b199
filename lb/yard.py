"""What all plain exchanges of a worker share (lb/shuttle.py, lb/trip.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.config import Lb
from cluster.member import State
from lb.access import AccessLog
from lb.affinity import Recogniser
from lb.arrived import Arrived
from lb.guards import Guards
from lb.headers import Via
from lb.limits import Admission
from lb.pool import Node, Pool
from lb.turnstile import Turnstile
from lb.upstream import Upstream


class PlainMetrics(Protocol):
    def exchange_done(self, node: str, status: int) -> None: ...

    def answered(self, node: str, seconds: float) -> None: ...


class Leaving(Protocol):
    def end_if_idle(self) -> None: ...

    def end(self) -> None: ...


class Travelling(Leaving, Protocol):
    def node_died(self, node: Node) -> None: ...


class Expiring(Protocol):
    def expire_head(self) -> None: ...


class LongWay(Protocol):
    def __call__(self, arrived: Arrived, transport: asyncio.Transport, number: int, *, is_full: bool) -> Expiring:
        """Serve a client whose next request is not plain.  `is_full`: what it was sent is not yet on its way."""


@dataclass(eq=False, slots=True)
class Yard:
    """One worker's."""

    pool: Pool
    guards: Guards
    turnstile: Turnstile
    recogniser: Recogniser
    upstream: Upstream
    metrics: PlainMetrics
    access: AccessLog
    admission: Admission
    limits: Lb
    cookie_for: Callable[[str], str]
    trace: Callable[[], bytes]
    is_stopping: Callable[[], bool]
    long_way: LongWay
    secure: bool = False
    """Clients speak TLS to us."""
    shuttles: set[Travelling] = field(default_factory=set)
    """All that are open."""
    _connecting: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pool.watchers.append(self._on_node)

    def via(self, peer: str, trace: bytes) -> Via:
        """Return who a request of the client at `peer` came from."""
        return Via(peer, self.recogniser.trusts(peer), trace, self.secure)

    def _on_node(self, node: Node) -> None:
        """Hear from the pool that `node` changed: who waits for one that is dead need not."""
        if node.state is State.DOWN and not node.answers:
            for shuttle in list(self.shuttles):
                shuttle.node_died(node)

    def close(self) -> None:
        """Hear no more of nodes."""
        if self._on_node in self.pool.watchers:
            self.pool.watchers.remove(self._on_node)

    def spawn(self, connecting: Coroutine[Any, Any, None]) -> None:
        """Run what connects to a node; it handles its own errors."""
        task = asyncio.get_running_loop().create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
