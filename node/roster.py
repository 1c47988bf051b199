"""Who is online, as plain values: devices, the users behind them, and what changed between two pictures.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class BadEntry(ValueError):
    """An entry of the shared list that cannot be read: written by another version, or by somebody else."""


@dataclass(frozen=True)
class Device:
    """One connection of a user: a Socket.IO sid on the `node` of this `incarnation`, `since` a Unix time."""

    sid: str
    username: str
    node: str
    incarnation: str
    port: int
    since: float

    @property
    def field(self) -> str:
        """Its field in the Redis hash `Keys.users_online`."""
        return f"{self.node} {self.incarnation} {self.sid}"

    def to_json(self) -> str:
        entry = {"username": self.username, "node": self.node, "port": self.port, "since": self.since}
        return json.dumps(entry, separators=(",", ":"))

    @classmethod
    def from_entry(cls, field: str, text: str | bytes) -> Device:
        """Read what `field` and `to_json` wrote.  Raises BadEntry."""
        parts = field.split(" ")
        if len(parts) != 3:
            raise BadEntry(f"field {field!r} is not `<node> <incarnation> <sid>`")
        node, incarnation, sid = parts
        try:
            raw = json.loads(text)
            username, port, since = raw["username"], raw["port"], raw["since"]
        except (ValueError, TypeError, KeyError) as exc:
            raise BadEntry(f"{field}: {type(exc).__name__}: {exc}") from None
        if not isinstance(username, str) or not isinstance(port, int) or not isinstance(since, int | float):
            raise BadEntry(f"{field}: values of the wrong type")
        return cls(sid, username, node, incarnation, port, float(since))


@dataclass(frozen=True)
class User:
    """Somebody who is online: on how many devices, on which nodes and ports (the longest there first), since when."""

    username: str
    devices: int
    nodes: tuple[str, ...]
    ports: tuple[int, ...]
    since: float


Roster = Mapping[str, User]
"""Users by name, the longest online first."""


@dataclass(frozen=True)
class Change:
    """A new roster, and who came and went since the one before.  Both may be empty: a second device is no arrival."""

    roster: Roster
    joined: tuple[User, ...]
    left: tuple[User, ...]


def roster_of(devices: Iterable[Device]) -> Roster:
    """Return the users behind `devices`."""
    by_name: dict[str, list[Device]] = {}
    for device in sorted(devices, key=lambda device: (device.since, device.field)):
        by_name.setdefault(device.username, []).append(device)
    return {
        name: User(
            username=name,
            devices=len(own),
            nodes=tuple(dict.fromkeys(device.node for device in own)),
            ports=tuple(dict.fromkeys(device.port for device in own)),
            since=own[0].since,
        )
        for name, own in by_name.items()
    }


def change_between(before: Roster, after: Roster) -> Change | None:
    """Return what is different in `after`, or None if nothing is."""
    if before == after:
        return None
    return Change(
        roster=after,
        joined=tuple(user for name, user in after.items() if name not in before),
        left=tuple(user for name, user in before.items() if name not in after),
    )
