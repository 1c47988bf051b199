"""What this balancer worker counts, cheap enough for every exchange: plain integers in dicts, put together when asked.

`docs/metrics.md` lists what is exposed.  `lb/reports.py` sums over the workers, `lb/exposition.py` writes it for
Prometheus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.closing import CloseCode
from cluster.ends import NO_CODE
from lb.histogram import ANSWER_S, HANDSHAKE_S, LIFE_S, Histogram
from lb.pool import Change, Node

FORGET_AFTER_S = 900.0
"""How long the counters of a node that left the pool are still shown."""

REASONS = (
    *("address", "bad_request", "body_size", "body_timeout", "busy", "head_size", "head_timeout", "no_node"),
    *("not_forwarded", "origin", "overloaded", "rate", "resources", "upgrade"),
    *("plain_http", "tls_alpn", "tls_failed", "tls_timeout"),
)
"""Why a client is turned away; docs/guards.md says what each means."""

STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

CLOSE_CODES = frozenset((*range(1000, 1016), CloseCode.SLOW_CONSUMER, CloseCode.UNAUTHORIZED))
"""Those that are counted one by one: RFC 6455 7.4.1, and ours.  Clients choose them, and there are thousands."""


@dataclass(slots=True)
class NodeCounts:
    """What was carried to one node.  All but `tunnels_open` and `handoffs_open` only ever grow."""

    exchanges: list[int] = field(default_factory=lambda: [0] * len(STATUS_CLASSES))
    """HTTP exchanges by class of the answer's status."""
    connect_failures: int = 0
    tunnels: int = 0
    """WebSockets ever carried; `tunnel_life` and the bytes are those of ended ones."""
    tunnels_open: int = 0
    bytes_from_client: int = 0
    bytes_from_node: int = 0
    handoffs: int = 0
    """WebSockets ever handed over; `handoff_life` is of ended ones."""
    handoffs_open: int = 0
    closes: dict[str, int] = field(default_factory=dict)
    """Ends of those, by close code."""
    became_joining: int = 0
    became_ready: int = 0
    became_ejected: int = 0
    became_draining: int = 0
    became_down: int = 0
    """Changes of the node's state, by the one that it came to."""
    answers: Histogram = field(default_factory=lambda: Histogram(ANSWER_S))
    """From the request to the head of the node's answer."""
    tunnel_handshakes: Histogram = field(default_factory=lambda: Histogram(HANDSHAKE_S))
    handoff_handshakes: Histogram = field(default_factory=lambda: Histogram(HANDSHAKE_S))
    tunnel_life: Histogram = field(default_factory=lambda: Histogram(LIFE_S))
    handoff_life: Histogram = field(default_factory=lambda: Histogram(LIFE_S))

    @property
    def open(self) -> int:
        """WebSockets that are open now, whoever carries them."""
        return self.tunnels_open + self.handoffs_open

    def __iadd__(self, other: NodeCounts) -> NodeCounts:
        self.exchanges = [mine + theirs for mine, theirs in zip(self.exchanges, other.exchanges, strict=True)]
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HISTOGRAMS:
            mine: Histogram = getattr(self, name)
            mine += getattr(other, name)
        for code, count in other.closes.items():
            self.closes[code] = self.closes.get(code, 0) + count
        return self

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("exchanges", "closes", *_NUMBERS)}
        return plain | {name: getattr(self, name).to_dict() for name in _HISTOGRAMS}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> NodeCounts:
        """Read what `to_dict` wrote; raises as `Totals.from_dict` does."""
        exchanges = [int(count) for count in raw["exchanges"]]
        if len(exchanges) != len(STATUS_CLASSES):
            raise ValueError(f"{len(STATUS_CLASSES)} classes of exchanges were expected, not {len(exchanges)}")
        numbers = {name: int(raw[name]) for name in _NUMBERS}
        closes = {str(code): int(count) for code, count in raw["closes"].items()}
        histograms = {name: Histogram.from_dict(bounds, raw[name]) for name, bounds in _HISTOGRAMS.items()}
        return cls(exchanges, closes=closes, **numbers, **histograms)  # type: ignore[arg-type]


_HISTOGRAMS = {
    "answers": ANSWER_S,
    "tunnel_handshakes": HANDSHAKE_S,
    "handoff_handshakes": HANDSHAKE_S,
    "tunnel_life": LIFE_S,
    "handoff_life": LIFE_S,
}
_OTHERS = ("exchanges", "closes", *_HISTOGRAMS)
_NUMBERS = tuple(each.name for each in dataclasses.fields(NodeCounts) if each.name not in _OTHERS)


@dataclass
class Totals:
    """What one worker, or all of them together, carried and turned away."""

    nodes: dict[str, NodeCounts] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    tls: dict[str, int] = field(default_factory=dict)
    """TLS handshakes, `full` and `resumed`."""
    unknown_names: int = 0
    """TLS handshakes for a name that no certificate has."""
    redirects: int = 0
    """Requests in plain HTTP that were sent to https."""

    def __iadd__(self, other: Totals) -> Totals:
        for name, counts in other.nodes.items():
            mine = self.nodes.setdefault(name, NodeCounts())
            mine += counts
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        for kind, count in other.tls.items():
            self.tls[kind] = self.tls.get(kind, 0) + count
        self.unknown_names += other.unknown_names
        self.redirects += other.redirects
        return self

    def to_dict(self) -> dict[str, Any]:
        return {
            "nodes": {name: counts.to_dict() for name, counts in self.nodes.items()},
            "rejected": dict(self.rejected),
            "tls": dict(self.tls),
            "unknown_names": self.unknown_names,
            "redirects": self.redirects,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Totals:
        """Read what `to_dict` of a worker of this stack wrote.

        Raises AttributeError, KeyError, TypeError or ValueError for what another version wrote.
        """
        return cls(
            {str(name): NodeCounts.from_dict(counts) for name, counts in raw["nodes"].items()},
            {str(reason): int(count) for reason, count in raw["rejected"].items()},
            {str(kind): int(count) for kind, count in raw["tls"].items()},
            int(raw["unknown_names"]),
            int(raw["redirects"]),
        )


class Metrics:
    """The counters of this worker.  Every method is a few additions, and never fails."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._absent_since: dict[str, float] = {}

    def exchange_done(self, node: str, status: int) -> None:
        """Count an HTTP exchange that `node` answered with `status`."""
        # Statuses have three digits (RFC 9110 15); what is out of range is the node's fault, and so counts as 5xx.
        self._of(node).exchanges[status // 100 - 1 if 100 <= status < 600 else 4] += 1

    def answered(self, node: str, seconds: float) -> None:
        """Count how long `node` took to begin its answer."""
        self._of(node).answers.add(seconds)

    def tunnel_opened(self, node: str, seconds: float) -> None:
        """Count a tunnel whose handshake took so long."""
        counts = self._of(node)
        counts.tunnels += 1
        counts.tunnels_open += 1
        counts.tunnel_handshakes.add(seconds)

    def tunnel_closed(self, node: str, seconds: float, bytes_from_client: int, bytes_from_node: int) -> None:
        counts = self._of(node)
        counts.tunnels_open -= 1
        counts.tunnel_life.add(seconds)
        counts.bytes_from_client += bytes_from_client
        counts.bytes_from_node += bytes_from_node

    def handed_over(self, node: str, seconds: float) -> None:
        """Count a WebSocket that `node` took so long after its client came."""
        counts = self._of(node)
        counts.handoffs += 1
        counts.handoffs_open += 1
        counts.handoff_handshakes.add(seconds)

    def handed_over_closed(self, node: str, seconds: float, code: int | None) -> None:
        """Count one that ended with this close code; with None, one that goes on without our hearing of it."""
        counts = self._of(node)
        counts.handoffs_open -= 1
        counts.handoff_life.add(seconds)
        if code is not None:
            label = str(code) if code in CLOSE_CODES else "unknown" if code == NO_CODE else "other"
            counts.closes[label] = counts.closes.get(label, 0) + 1

    def node_changed(self, change: Change) -> None:
        """Count a change of a node's state."""
        counts, name = self._of(change.node), f"became_{change.after}"
        setattr(counts, name, getattr(counts, name) + 1)

    def connect_failed(self, node: str) -> None:
        """Count a connection to `node` that was refused, or not there in time."""
        self._of(node).connect_failures += 1

    def rejected(self, reason: str) -> None:
        """Count a request that we answered ourselves.  `reason` is one of a few fixed words."""
        self.totals.rejected[reason] = self.totals.rejected.get(reason, 0) + 1

    def tls_handshake(self, resumed: bool) -> None:
        """Count a TLS handshake that succeeded."""
        kind = "resumed" if resumed else "full"
        self.totals.tls[kind] = self.totals.tls.get(kind, 0) + 1

    def tls_unknown_name(self) -> None:
        self.totals.unknown_names += 1

    def redirected(self) -> None:
        self.totals.redirects += 1

    def _of(self, node: str) -> NodeCounts:
        counts = self.totals.nodes.get(node)
        if counts is None:
            counts = self.totals.nodes[node] = NodeCounts()
        return counts

    def settle(self, nodes: Iterable[Node], now: float) -> None:
        """Move what was counted under a node's former name to its name, and forget nodes that are long gone.

        Call it about each second; `now` is in monotonic seconds.  A node's name comes late (`Pool.rename`), and names
        of nodes come and go without end where containers do, while this process stays.
        """
        counted, present = self.totals.nodes, set()
        for node in nodes:
            present.add(node.name)
            for former in node.former_names:
                if (counts := counted.pop(former, None)) is not None:
                    mine = self._of(node.name)
                    mine += counts
        for name in [name for name in counted if name not in present and not counted[name].open]:
            if now - self._absent_since.setdefault(name, now) >= FORGET_AFTER_S:
                del counted[name]
        for name in [name for name in self._absent_since if name in present or name not in counted]:
            del self._absent_since[name]
