"""What the Socket.IO load generator finds out, as values.  CPU time is the server's, per unit of work.

`faults` says, a line each, what must not have happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from benchmarks.results import Window


class Result(Protocol):
    """What came of one question to one server."""

    @property
    def faults(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Echoed(Window):
    """Events and their acknowledgements over a measuring window."""

    round_trips: int
    lost: int
    changed: int
    dropped: int
    cpu_us: float

    @property
    def count(self) -> int:
        return self.round_trips

    @property
    def faults(self) -> Iterator[str]:
        if self.lost or self.changed or self.dropped or not self.round_trips:
            yield (
                f"{self.round_trips} events acknowledged, {self.lost} not, {self.changed} with something else,"
                f" {self.dropped} clients dropped"
            )


@dataclass(frozen=True)
class Delivered(Window):
    """Broadcasts, from before the first was sent until after the last had arrived."""

    deliveries: int
    lost: int
    """Of these, and of those before the window."""
    duplicated: int
    reordered: int
    """Among those of one handler."""
    changed: int
    dropped: int
    late: bool
    """The server could not keep up with the rate: its latency is that of a queue."""
    cpu_us: dict[str, float]
    """By the name under which the processes were given."""
    servers: dict[str, int]
    """How many clients each has, by its name."""

    @property
    def count(self) -> int:
        return self.deliveries

    @property
    def all_cpu_us(self) -> float:
        return sum(self.cpu_us.values())

    @property
    def faults(self) -> Iterator[str]:
        if self.lost or self.duplicated or self.changed or self.dropped or not self.deliveries:
            yield (
                f"{self.deliveries} messages delivered, {self.lost} lost, {self.duplicated} came twice, {self.changed}"
                f" unknown ones came, {self.dropped} clients dropped"
            )
        if self.reordered:
            yield f"{self.reordered} messages out of order"


@dataclass(frozen=True)
class Idle:
    """Memory of the server before, and with all clients connected and silent."""

    connections: int
    dropped: int
    pss_kib_before: int
    rss_kib_before: int
    pss_kib_per_connection: float
    rss_kib_per_connection: float

    @property
    def faults(self) -> Iterator[str]:
        if self.dropped:
            yield f"{self.dropped} of {self.connections} idle clients dropped"


@dataclass(frozen=True)
class Connected(Window):
    """Clients that came, were connected, and went; how long from the TCP connect to Socket.IO's connect packet."""

    connects: int
    failed: int
    cpu_us: float

    @property
    def count(self) -> int:
        return self.connects

    @property
    def faults(self) -> Iterator[str]:
        if self.failed or not self.connects:
            yield f"{self.failed} of {self.failed + self.connects} connects failed"


@dataclass(frozen=True)
class Steady(Window):
    """How clients fared that were connected all the time."""

    round_trips: int
    lost: int
    skipped: int
    """Events that were not emitted, as the client had no answer to the one before yet."""
    changed: int
    dropped: tuple[str, ...]
    """Who is gone, and why."""
    p90_us: float
    longest_us: float

    @property
    def count(self) -> int:
        return self.round_trips


@dataclass(frozen=True)
class Stormed(Window):
    """How clients fared that wanted in; how long from the connect until Socket.IO was connected, of those let in.

    Those that are in none of these were still waiting at the end.
    """

    came: int
    let_in: int
    refused: int
    """Told to come again later (503)."""
    failed: tuple[str, ...]
    """What else became of some."""

    @property
    def count(self) -> int:
        return self.let_in
