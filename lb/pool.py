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
    """Clients that we sent there since its last report: least_connections must not wait for a heartbeat."""
    placed_before: int = 0
    """Those of the report before: it may have been written while they were still on their way."""
    configured: tuple[str, int] | None = None
    """Host and port that the configuration gives, if it names this node."""
    former_names: tuple[str, ...] = ()
    """Names that it had in this pool before; see `Pool.rename`."""

    @property
    def static(self) -> bool:
        return self.configured is not None

    @property
    def connections(self) -> int:
        """Clients that the node has, by its own count where it gives one."""
        if self.record is None:
            return self.tunnels + self.handed_over
        return self.record.connections + self.placed + self.placed_before

    @property
    def path(self) -> Path:
        """How a WebSocket gets there."""
        return Path.HANDOFF if self.handoff and not self.handoff_broken else Path.TUNNEL

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
    watchers: list[Callable[[Node], None]] = field(default_factory=list)
    """Each is called with a node that joined the pool, changed its state or what it says of it, or left the pool."""
    our_host: str = ""
    """Host id of the nodes that connections may be handed to; empty: to none."""
    _nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, Node]:
        return MappingProxyType(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __contains__(self, node: Node) -> bool:
        return self._nodes.get(node.name) is node

    def add_static(self, host: str, port: int, name: str = "") -> Node:
        """Add a node that the configuration names: it stays in the pool, also while it is down.

        Without a `name` its address is its name, until a probe learns the one that its own sids carry.  An address
        that is in the pool already is not added twice.
        """
        node = self._at(host, port)
        if node is None:
            return self._add(Node(name or _address(host, port), host, port, configured=(host, port)))
        node.configured = (host, port)
        return node

    def rename(self, node: Node, name: str) -> bool:
        """Call a node by the name that its own sids carry, so that they route; False if that name is taken."""
        if name in self._nodes or node not in self:
            return False
        del self._nodes[node.name]
        node.former_names = (*node.former_names, node.name)
        node.name = name
        self._nodes[name] = node
        return True

    def same(self, static: Node, found: Node) -> None:
        """Let a configured node and another one, which turned out to be the same process, be one node.

        The other one stays, since its name is what its sids carry, and is a configured one from now on.
        """
        found.configured = found.configured or static.configured
        found.former_names = (*found.former_names, *static.former_names, static.name)
        del self._nodes[static.name]
        self._tell(static)

    def seen(self, records: Sequence[NodeRecord]) -> None:
        """Take the registry's whole picture: add, update, and let go of those that it no longer has."""
        present = {record.name for record in records}
        for node in [node for node in self if node.record is not None and node.name not in present]:
            self._lost(node)
        for record in records:
            self._update(self._node_of(record), record)

    def signal(self, node: Node, signal: Signal, reason: str) -> None:
        """Let `signal` happen to `node`; the table in cluster/member.py says what becomes of it."""
        before, node.state = node.state, NEXT[node.state, signal]
        if node.state is before:
            return
        node.reason, node.since = reason, self.clock()
        if node.state is State.READY:
            node.handoff_broken = False  # it is another process, or was repaired
        self.on_change(Change(node.name, before, node.state, signal, reason, node.since))
        self._tell(node)

    @contextmanager
    def carrying(self, node: Node) -> Iterator[None]:
        """Count one HTTP exchange with `node` while it lasts."""
        node.exchanges += 1
        try:
            yield
        finally:
            node.exchanges -= 1

    def _node_of(self, record: NodeRecord) -> Node:
        node = self._nodes.get(record.name)
        if node is not None:
            return node
        node = self._at(record.host, record.port)
        # Two records may share an address while one of them waits for the end of its lease: those stay two nodes.
        if node is None or node.record is not None:
            return self._add(Node(record.name, record.host, record.port))
        self.rename(node, record.name)
        return node

    def _update(self, node: Node, record: NodeRecord) -> None:
        if node.record is not None and node.record.incarnation != record.incarnation:
            # The process that we knew is no more; its successor must show that it serves.
            self.signal(node, Signal.GONE, "replaced by a new process")
        if node.record != record:
            # A report may not count those yet whom we placed shortly before.  To count somebody twice for a heartbeat
            # only sends the next client elsewhere; to miss one would send two there.
            node.placed_before, node.placed = node.placed, 0
        before, node.record = node.record, record
        node.handoff = record.handoff if self.our_host and record.host_id == self.our_host else ""
        node.host, node.port = record.host, record.port
        if record.state is State.DRAINING:
            self.signal(node, Signal.DRAIN, "it says that it is leaving")
        if before is None or (before.incarnation, before.state) != (record.incarnation, record.state):
            self._tell(node)

    def _add(self, node: Node) -> Node:
        assert node.name not in self._nodes, f"two nodes named {node.name}"
        node.since = self.clock()
        self._nodes[node.name] = node
        self._tell(node)
        return node

    def _at(self, host: str, port: int) -> Node | None:
        return next((node for node in self if (host, port) in ((node.host, node.port), node.configured)), None)

    def _lost(self, node: Node) -> None:
        node.record = None
        self.signal(node, Signal.GONE, "its lease ended, or it signed off")
        if node.configured is not None:
            node.host, node.port = node.configured
            return
        del self._nodes[node.name]
        self._tell(node)

    def _tell(self, node: Node) -> None:
        for watcher in self.watchers:
            watcher(node)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
