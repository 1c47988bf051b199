"""The nodes as this balancer sees them: what they say of themselves, what the probes say, what we carry to them.

The pool decides nothing about routing and does no I/O.  `lb/discovery.py` brings it the registry's picture,
`lb/health.py` its signals, `lb/front.py` what is being carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from cluster.member import NEXT, Drain, NodeRecord, Signal, State
from lb.conduct import Conduct
from lb.nodes import Change as Change
from lb.nodes import Node as Node
from lb.nodes import Path as Path
from lb.terms import Terms, smoothed, weigh

DRAINED = "drained by an operator"
UNDRAINED = "no longer drained by an operator"


@dataclass
class Pool:
    """All nodes, by name.  `clock` gives monotonic seconds; `on_change` hears every change of state."""

    clock: Callable[[], float]
    on_change: Callable[[Change], None] = lambda _: None
    watchers: list[Callable[[Node], None]] = field(default_factory=list)
    """Each is called with a node that joined the pool, changed its state or what it says of it, or left the pool."""
    our_host: str = ""
    """Host id of the nodes that connections may be handed to; empty: to none."""
    terms: Terms = field(default_factory=Terms)
    on_panic: Callable[[bool, str], None] = lambda *_: None
    """Hears when nodes that are not well are used because too few are, and when that is over."""
    in_panic: bool = False
    drains: Mapping[str, Drain] = field(default_factory=dict)
    """What operators have ordered, by the names of nodes."""
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
        self.terms.apply(node)
        self._obey(node)
        self.muster()
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
        weigh([node for node in self if node.state is State.READY])
        self.muster()

    def ordered(self, drains: Mapping[str, Drain]) -> None:
        """Take all orders of operators to drain nodes; what is missing was taken back."""
        self.drains = drains
        for node in list(self):
            self._obey(node)
        self.muster()

    def failed(self, node: Node, reason: str) -> None:
        """Somebody who was sent to `node` was not served; too many in a row, and it is left alone for a while."""
        if not node.takes_new:
            return  # that is known already, or it is on its way out
        was_on_trial = node.conduct.on_trial
        seconds = node.conduct.failed(self.clock(), self.terms.rules)
        if seconds is not None:
            who = "the first since its return" if was_on_trial else f"{self.terms.rules.after} in a row"
            self.signal(node, Signal.EJECT, f"{who} failed there, for {seconds:g} s; the last: {reason}")

    def unreachable(self, node: Node, reason: str) -> None:
        """No connection to `node` came up: it is dead until a probe says otherwise."""
        self.failed(node, reason)
        node.answers = False
        self.signal(node, Signal.FALL, reason)
        self.muster()  # it may have been down before, and in use because it answered

    def served(self, node: Node) -> None:
        """Somebody who was sent to `node` was served."""
        node.conduct.served()

    def signal(self, node: Node, signal: Signal, reason: str) -> None:
        """Let `signal` happen to `node`; the table in cluster/member.py says what becomes of it."""
        if signal is Signal.GONE:
            node.answers = False
        before, node.state = node.state, NEXT[node.state, signal]
        if node.state is State.READY and node.drain is not None:
            node.state, signal, reason = NEXT[node.state, Signal.DRAIN], Signal.DRAIN, DRAINED
        if node.state is before:
            return
        now = self.clock()
        if signal is Signal.FALL and before in (State.READY, State.EJECTED):
            seconds = node.conduct.fell(now, self.terms.rules)
            if seconds is not None:
                reason = f"{reason}; it {node.conduct.why}: out for {seconds:g} s at least"
        node.reason, node.since = reason, now
        if before is State.DOWN or node.state is State.READY:
            node.handoff_broken = False  # it is another process, or was repaired
        if node.state is State.READY:
            self._begin_slowly(node)
        self.on_change(Change(node.name, before, node.state, signal, reason, node.since))
        self.muster()
        self._tell(node)

    def muster(self) -> None:
        """See whether so few nodes are well that those must help that live and are not: better badly than not at all.

        Envoy calls it panic.  Who is dead or leaves is not asked.
        """
        sick = [node for node in self if node.is_sick]
        ready = sum(node.state is State.READY for node in self)
        panic = bool(sick) and 100 * ready < self.terms.panic_percent * (ready + len(sick))
        for node in self:
            node.recruited = panic and node.is_sick
        if panic is not self.in_panic:
            self.in_panic = panic
            self.on_panic(panic, f"{ready} of {ready + len(sick)} nodes that answer are well")

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
            node.conduct, node.cut_off, node.lag_ms = Conduct(), False, 0.0
        if node.record != record:
            # A report may not count those yet whom we placed shortly before.  To count somebody twice for a heartbeat
            # only sends the next client elsewhere; to miss one would send two there.
            node.placed_before, node.placed = node.placed, 0
            node.lag_ms = smoothed(node.lag_ms, record.loop_lag_ms)
        before, node.record = node.record, record
        node.handoff = record.handoff if self.our_host and record.host_id == self.our_host else ""
        node.host, node.port = record.host, record.port
        if before is None:
            self.terms.limit(node)
            self.terms.apply(node)
        if record.state is State.DRAINING:
            self.signal(node, Signal.DRAIN, "it says that it is draining")
        elif before is not None and before.state is State.DRAINING and node.drain is None:
            # A node hears of its order, and of its end, later than we.
            was_ordered = node.reason == DRAINED
            said = UNDRAINED if was_ordered else "it says that it is not draining any more"
            self.signal(node, Signal.UNDRAIN, said)
        if before is None or (before.incarnation, before.state) != (record.incarnation, record.state):
            self._tell(node)

    def _add(self, node: Node) -> Node:
        assert node.name not in self._nodes, f"two nodes named {node.name}"
        node.since = self.clock()
        self._nodes[node.name] = node
        self.terms.welcome(node)
        self._obey(node)
        self._tell(node)
        return node

    def _obey(self, node: Node) -> None:
        """Let `node` drain, or not, as operators have ordered."""
        before, node.drain = node.drain, self.drains.get(node.name)
        if node.drain is not None:
            self.signal(node, Signal.DRAIN, DRAINED)
        elif before is not None and node.said is not State.DRAINING:
            self.signal(node, Signal.UNDRAIN, UNDRAINED)

    def _begin_slowly(self, node: Node) -> None:
        """Give a node that joins others its share of new clients step by step.

        Not where all have just begun: nobody has more to give than it has.
        """
        slow_s, now = self.terms.slow_start_s, self.clock()
        warm = (other.state is State.READY and now - other.since >= slow_s for other in self if other is not node)
        if slow_s and any(warm):
            node.warm_from, node.warm_at = now, now + slow_s

    def _at(self, host: str, port: int) -> Node | None:
        return next((node for node in self if (host, port) in ((node.host, node.port), node.configured)), None)

    def _lost(self, node: Node) -> None:
        node.record = None
        self.signal(node, Signal.GONE, "its lease ended, or it signed off")
        if node.configured is not None:
            node.host, node.port = node.configured
            self.terms.limit(node)
            return
        del self._nodes[node.name]
        self.muster()
        self._tell(node)

    def _tell(self, node: Node) -> None:
        for watcher in self.watchers:
            watcher(node)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
