"""One node as this balancer sees it: what it says of itself, what the probes say, what we carry to it.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.member import Drain, NodeRecord, Signal, State
from lb.conduct import Conduct
from lb.pacing import Pace


class Path(StrEnum):
    """How the bytes of a WebSocket reach a node."""

    HANDOFF = "handoff"
    TUNNEL = "tunnel"


@dataclass(frozen=True)
class Change:
    """A node changed its state: what happened, and why."""

    node: str
    before: State
    after: State
    signal: Signal
    reason: str
    at: float
    """Monotonic seconds."""


@dataclass(eq=False)
class Node:
    """One node in the pool: `static` if the configuration names it; `record` is what it says of itself, if it does.

    `host` and `port` are where it is reached now: a record's address goes before a configured one.
    """

    name: str
    host: str
    port: int
    state: State = State.JOINING
    reason: str = "not probed yet"
    since: float = 0.0
    record: NodeRecord | None = None
    handoff: str = ""
    """Path of its handoff socket, if it runs on this host and has one."""
    handoff_broken: bool = False
    """That socket could not be used: it is left alone for a while, or until the node is replaced."""
    tunnels: int = 0
    """WebSockets that this balancer carries to it now."""
    handed_over: int = 0
    """WebSockets that this balancer handed to it, and that it still has."""
    exchanges: int = 0
    """HTTP exchanges that this balancer carries to it now."""
    placed: int = 0
    """Clients that we sent there since its last report: least_connections must not wait for a heartbeat.

    Of a node that does not report, those that are on their way.
    """
    placed_before: int = 0
    """Those of the report before: it may have been written while they were still on their way."""
    configured: tuple[str, int] | None = None
    """Host and port that the configuration gives, if it names this node."""
    local: bool = False
    """Our own stack runs it."""
    former_names: tuple[str, ...] = ()
    """Names that it had in this pool before; see `Pool.rename`."""
    weight: float = 1.0
    most: int = 0
    """Clients that it may have before no new ones are sent there (0: any number)."""
    pace: Pace = field(default_factory=Pace)
    """How fast new clients are sent there."""
    burden: float = 1.0
    """How much a client weighs here: more on a node of little weight, or one that is late or large; see lb/terms.py."""
    lag_ms: float = 0.0
    """Delay of its event loop, smoothed over its reports."""
    warm_from: float = 0.0
    warm_at: float = 0.0
    """Between these times (monotonic seconds) it gets a growing share of the new clients."""
    conduct: Conduct = field(default_factory=Conduct)
    drain: Drain | None = None
    """An operator wants it to have no new clients."""
    leaving: bool = False
    """It answered its last probe that it drains."""
    answers: bool = False
    """It answered its last probe, however badly, and was reached ever since: it is not dead."""
    degraded: bool = False
    """It says that it does not reach Redis."""
    cut_off: bool = False
    """It does not reach Redis, although we do and most nodes do."""
    recruited: bool = False
    """Too few nodes are well, so this one gets clients although it is not."""

    @property
    def static(self) -> bool:
        return self.configured is not None

    @property
    def connections(self) -> int:
        """Clients that the node has, by its own count where it gives one."""
        had = self.tunnels + self.handed_over if self.record is None else self.record.connections
        return had + self.placed + self.placed_before

    def landed(self) -> None:
        """A client that was placed there is there: where the node does not count, it is in our own count now."""
        if self.record is None and self.placed:
            self.placed -= 1

    @property
    def path(self) -> Path:
        """How a WebSocket gets there."""
        return Path.HANDOFF if self.handoff and not self.handoff_broken else Path.TUNNEL

    @property
    def takes_new(self) -> bool:
        return self.state is State.READY or self.recruited

    def has_room(self, now: float) -> bool:
        """Whether one more client may be sent there now: it is not full, and none was sent too shortly before."""
        return self.pace.opens_at <= now and (not self.most or self.connections < self.most)

    def share(self, now: float) -> float:
        """How much of what it will get one day it gets now, from 0 to 1."""
        if now >= self.warm_at or self.connections < NO_CROWD:
            return 1.0
        return max(LEAST_SHARE, (now - self.warm_from) / (self.warm_at - self.warm_from))

    @property
    def said(self) -> State:
        """The state that it gives itself: in its record, or else to a probe.  One that says nothing is ready."""
        if self.record is not None:
            return self.record.state
        return State.DRAINING if self.leaving else State.READY

    @property
    def hears_orders(self) -> bool:
        """Whether it reads an order to drain itself: in Redis, or where our own stack writes them without one."""
        return self.record is not None or self.local

    @property
    def is_sick(self) -> bool:
        """It lives and is not well: better than nobody, where nobody else is."""
        if self.state is State.EJECTED:
            return True
        return self.state is State.DOWN and self.answers and self.said is State.READY and self.drain is None

    @property
    def is_reachable(self) -> bool:
        """A draining or ejected node still serves those that it has."""
        return self.state in _SERVING or self.recruited


_SERVING = frozenset({State.READY, State.EJECTED, State.DRAINING})

NO_CROWD = 10
"""With fewer clients a node cannot be run over: where all are nearly empty, one that comes later is one of them."""

LEAST_SHARE = 0.1
"""With less a node that has just joined would not be noticed to fail."""
