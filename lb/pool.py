"""The nodes as this balancer sees them: what they say of themselves, what the probes say, what we carry to them.

The pool decides nothing about routing and does no I/O.  `lb/discovery.py` brings it the registry's picture,
`lb/health.py` its signals, `lb/front.py` what is being carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from cluster.member import NEXT, NodeRecord, Signal, State


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
    """One node in the pool: `static` if the configuration names it; `record` is what it says of itself, if it does."""

    name: str
    host: str
    port: int
    static: bool = False
    state: State = State.JOINING
    reason: str = "not probed yet"
    since: float = 0.0
    record: NodeRecord | None = None
    path: Path = Path.TUNNEL
    tunnels: int = 0
    """WebSockets that this balancer carries to it now."""
    exchanges: int = 0
    """HTTP exchanges that this balancer carries to it now."""
    placed: int = 0
    """Clients that we sent there since its last report: least_connections must not wait for a heartbeat."""

    @property
    def connections(self) -> int:
        """Clients that the node has, by its own count where it gives one."""
        return self.tunnels if self.record is None else self.record.connections + self.placed

    @property
    def takes_new(self) -> bool:
        return self.state is State.READY

    @property
    def is_reachable(self) -> bool:
        """A draining node still serves those that it has."""
        return self.state in (State.READY, State.DRAINING)


@dataclass
class Pool:
    """All nodes, by name.  `clock` gives monotonic seconds; `on_change` hears every change of state."""

    clock: Callable[[], float]
    on_change: Callable[[Change], None] = lambda _: None
    _nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return MappingProxyType(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def add_static(self, host: str, port: int, name: str = "") -> Node:
        """Add a node that the configuration names: it stays in the pool, also while it is down.

        Without a `name` its address is its name, until a probe learns the one that its own sids carry.
        """
        return self._add(Node(name=name or f"{host}:{port}", host=host, port=port, static=True))

    def rename(self, node: Node, name: str) -> None:
        """Call a node by the name that its own sids carry, so that they route; no-op if that name is taken."""
        if name in self._nodes or self._nodes.get(node.name) is not node:
            return
        del self._nodes[node.name]
        node.name = name
        self._nodes[name] = node

    def seen(self, records: Sequence[NodeRecord]) -> None:
        """Take the registry's whole picture: add, update, and let go of those that it no longer has."""
        for record in records:
            node = self._nodes.get(record.name) or self._at(record.host, record.port)
            if node is None:
                node = self._add(Node(name=record.name, host=record.host, port=record.port))
            elif node.name != record.name:
                self.rename(node, record.name)
            if node.record is not None and node.record.incarnation != record.incarnation:
                # The process that we knew is no more; its successor must show that it serves.
                self.signal(node, Signal.GONE, "replaced by a new process")
            node.host, node.port, node.record, node.placed = record.host, record.port, record, 0
            if record.state is State.DRAINING:
                self.signal(node, Signal.DRAIN, "it says that it is leaving")
        present = {record.name for record in records}
        for node in [node for node in self if node.record is not None and node.name not in present]:
            self._lost(node)

    def signal(self, node: Node, signal: Signal, reason: str) -> None:
        """Let `signal` happen to `node`; the table in cluster/member.py says what becomes of it."""
        before, node.state = node.state, NEXT[node.state, signal]
        if node.state is before:
            return
        node.reason, node.since = reason, self.clock()
        self.on_change(Change(node.name, before, node.state, signal, reason, node.since))

    @contextmanager
    def carrying(self, node: Node) -> Iterator[None]:
        """Count one HTTP exchange with `node` while it lasts."""
        node.exchanges += 1
        try:
            yield
        finally:
            node.exchanges -= 1

    def _add(self, node: Node) -> Node:
        node.since = self.clock()
        self._nodes[node.name] = node
        return node

    def _at(self, host: str, port: int) -> Node | None:
        return next((node for node in self if (node.host, node.port) == (host, port)), None)

    def _lost(self, node: Node) -> None:
        node.record = None
        self.signal(node, Signal.GONE, "its lease ended, or it signed off")
        if not node.static:
            del self._nodes[node.name]
