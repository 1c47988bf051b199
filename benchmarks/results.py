"""What a load generator finds out, as values.  Times are in seconds unless the name says µs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Window(ABC):
    """What a generator saw of one thing that happened over and over while it measured."""

    seconds: float
    p50_us: float
    """Of how long each took."""
    p99_us: float
    generator_cpu_percent: float
    """Of a core: near 100 the generator was what there was too little of."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How often it happened."""

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True)
class EchoResult(Window):
    """What came of a measuring window full of echoes."""

    round_trips: int
    lost: int
    mismatched: int
    cpu_us: float
    """CPU time of the balancer's processes per round trip."""

    @property
    def count(self) -> int:
        return self.round_trips


@dataclass(frozen=True)
class IdleResult:
    """Memory of the balancer's processes before, and with all connections open; and of the node's, if there is one."""

    connections: int
    lost: int
    pss_kib_before: int
    rss_kib_before: int
    pss_kib_per_connection: float
    rss_kib_per_connection: float
    node_pss_kib_per_connection: float = 0.0


@dataclass(frozen=True)
class HandshakeResult(Window):
    """What it took to open and close WebSockets, one handshake each; how long from the connect to the 101."""

    handshakes: int
    failed: int
    balancer_cpu_us: float
    """Per handshake, its close included; so is `node_cpu_us`."""
    node_cpu_us: float

    @property
    def count(self) -> int:
        return self.handshakes

    @property
    def cpu_us(self) -> float:
        return self.balancer_cpu_us + self.node_cpu_us


@dataclass(frozen=True)
class TalkResult:
    """What became of talking connections, and of those that arrived meanwhile."""

    connections: int
    sent: int
    dropped: int
    """Connections that did not live to the end."""
    lost: int
    duplicated: int
    reordered: int
    changed: int
    """Connections on which something came that was never sent."""
    slowest_echo_s: float
    arrived: int
    refused: int
    """ECONNREFUSED: nobody listened."""
    cut: int
    """Closed while the request was in a worker's hands, before any answer."""
    rejected: int
    """Answered with something else than 101."""
    broken: int
    """Opened, and then lost before its echo came."""
    timed_out: int
    longest_wait_s: float
    """Of an arrival, from the connect to the 101."""
    median_wait_s: float
    reasons: tuple[str, ...] = ()
    """What the first of those that failed met."""
