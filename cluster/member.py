"""A member of the cluster: what a node says of itself, and the states it goes through.  Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.errors import FlotillaError
from cluster.tag import SLOT


class State(StrEnum):
    """State of a node as its balancer sees it; joining, ready and draining are also what a node says of itself."""

    JOINING = "joining"
    READY = "ready"
    EJECTED = "ejected"
    """Answers its probes and failed those who were sent to it: it keeps its clients and gets no new ones a while."""
    DRAINING = "draining"
    DOWN = "down"


class Signal(StrEnum):
    """What can happen to a node in the eyes of the balancer."""

    RISE = "rise"
    """Enough probes in a row succeeded."""
    FALL = "fall"
    """Enough probes in a row failed, or a connection to it was refused."""
    EJECT = "eject"
    """Too many of those who were sent to it failed, or it alone is cut off from Redis."""
    READMIT = "readmit"
    """The time of its ejection is over."""
    DRAIN = "drain"
    """It says that it is leaving, or an operator says so."""
    UNDRAIN = "undrain"
    """An operator takes that back, or it says so itself."""
    GONE = "gone"
    """Its lease ended, or it signed off."""


NEXT: dict[tuple[State, Signal], State] = {
    (State.JOINING, Signal.RISE): State.READY,
    (State.JOINING, Signal.FALL): State.DOWN,
    (State.JOINING, Signal.EJECT): State.JOINING,
    (State.JOINING, Signal.READMIT): State.JOINING,
    (State.JOINING, Signal.DRAIN): State.DRAINING,
    (State.JOINING, Signal.UNDRAIN): State.JOINING,
    (State.JOINING, Signal.GONE): State.DOWN,
    (State.READY, Signal.RISE): State.READY,
    (State.READY, Signal.FALL): State.DOWN,
    (State.READY, Signal.EJECT): State.EJECTED,
    (State.READY, Signal.READMIT): State.READY,
    (State.READY, Signal.DRAIN): State.DRAINING,
    (State.READY, Signal.UNDRAIN): State.READY,
    (State.READY, Signal.GONE): State.DOWN,
    # That it answers its probes does not end an ejection: it did so before.
    (State.EJECTED, Signal.RISE): State.EJECTED,
    (State.EJECTED, Signal.FALL): State.DOWN,
    (State.EJECTED, Signal.EJECT): State.EJECTED,
    (State.EJECTED, Signal.READMIT): State.READY,
    (State.EJECTED, Signal.DRAIN): State.DRAINING,
    (State.EJECTED, Signal.UNDRAIN): State.EJECTED,
    (State.EJECTED, Signal.GONE): State.DOWN,
    # A draining node that answers its probes gets no traffic back.
    (State.DRAINING, Signal.RISE): State.DRAINING,
    (State.DRAINING, Signal.FALL): State.DOWN,
    (State.DRAINING, Signal.EJECT): State.DRAINING,
    (State.DRAINING, Signal.READMIT): State.DRAINING,
    (State.DRAINING, Signal.DRAIN): State.DRAINING,
    # Nobody knows how well it is by now: it must answer a probe first.
    (State.DRAINING, Signal.UNDRAIN): State.JOINING,
    (State.DRAINING, Signal.GONE): State.DOWN,
    (State.DOWN, Signal.RISE): State.READY,
    (State.DOWN, Signal.FALL): State.DOWN,
    (State.DOWN, Signal.EJECT): State.DOWN,
    (State.DOWN, Signal.READMIT): State.DOWN,
    (State.DOWN, Signal.DRAIN): State.DOWN,
    (State.DOWN, Signal.UNDRAIN): State.DOWN,
    (State.DOWN, Signal.GONE): State.DOWN,
}
"""The whole life of a node.  A pair that is missing here is a bug, and a KeyError."""


class BadRecord(FlotillaError):
    """A node's record in Redis that cannot be read: written by another version, or by somebody else."""


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """What a node says of itself in the registry, renewed with each heartbeat.

    Units are in the names; `loop_lag_ms` is the longest delay of the event loop since the record before, `cpu_percent`
    is of one core, `messages_*` count Socket.IO packets (events, acknowledgements, connects) since the node started.
    """

    name: str
    host: str
    port: int
    incarnation: str
    """Differs for each process that ever used this name: tells a restarted node from the one before."""
    state: State = State.READY
    pid: int = 0
    host_id: str = ""
    handoff: str = ""
    """Path of the handoff socket on the node's own host, or empty."""
    version: str = ""
    connections: int = 0
    users: int = 0
    memory_bytes: int = 0
    cpu_percent: float = 0.0
    loop_lag_ms: float = 0.0
    uptime_s: float = 0.0
    messages_in: int = 0
    messages_out: int = 0
    bus_published: int = 0
    """Messages for other nodes, and (`bus_received`) from them, its own copies included."""
    bus_published_bytes: int = 0
    bus_received: int = 0
    bus_received_bytes: int = 0
    bus_subscriptions: int = 0
    """Channels that the node listens to."""
    bus_outbox_bytes: int = 0
    """What waits for Redis."""
    bus_dropped: int = 0
    """Messages that other nodes did not get."""
    bus_canary_ms: float = 0.0
    """How long a message through Redis and back took last."""
    bus_lag_p50_ms: float = 0.0
    """From another node's sending to this one's taking, since the start; by two clocks, if they are on two hosts."""
    bus_lag_p99_ms: float = 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> NodeRecord:
        """Read a record.  Fields that we do not know are ignored: a newer node may say more.

        Raises BadRecord, which names what is wrong.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise BadRecord(f"not JSON: {exc}") from None
        if not isinstance(raw, dict):
            raise BadRecord(f"a JSON object was expected, not {type(raw).__name__}")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name in raw:
                values[field.name] = _checked(field.name, str(field.type), raw[field.name])
            elif field.default is dataclasses.MISSING:
                raise BadRecord(f"{field.name} is missing")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Drain:
    """An operator's order to a node, by its name: take no new clients, after `drain_s` send away who still is there.

    It holds until it is taken back, also for a process that takes the name over.  `since` is wall clock time (seconds
    since 1970), as hosts share no other; `close_per_s` is how many clients a second are told to go.
    """

    since: float
    drain_s: float
    close_per_s: float

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Drain:
        """Read an order; fields that we do not know are ignored.  Raises BadRecord."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise BadRecord(f"not JSON: {exc}") from None
        names = [each.name for each in dataclasses.fields(cls)]
        if not isinstance(raw, dict) or any(name not in raw for name in names):
            raise BadRecord(f"an order to drain has {', '.join(names)}")
        return cls(**{name: _checked(name, "float", raw[name]) for name in names})


_ACCEPTED = {"str": (str,), "int": (int,), "float": (int, float), "State": (str,)}


def _checked(name: str, kind: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, _ACCEPTED[kind]):
        raise BadRecord(f"{name} must be of type {kind}, not {_shown(value)}")
    rule = _RULES.get(name) or _RULES.get(kind)
    if rule is not None and not rule[0](value):
        raise BadRecord(f"{name} must be {rule[1]}, not {_shown(value)}")
    return State(str(value)) if kind == "State" else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    "name": (SLOT.fullmatch, "the name of a slot"),
    "host": (lambda value: 0 < len(value) <= 255 and value.isprintable(), "the address of a host"),
    "port": (lambda value: 0 < value < 65536, "from 1 to 65535"),
    "incarnation": (bool, "given"),
    "State": (lambda value: value in set(State), f"one of {', '.join(State)}"),
    "int": (lambda value: 0 <= value < 2**63, "0 or more"),
    # JSON as Python reads it has NaN and Infinity.
    "float": (lambda value: 0 <= value < 2**63, "0 or more"),
}
"""What the values of a field, or else those of a type, must be."""
