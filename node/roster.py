"""Who is online, as values: connections of users, the users behind them, and what there is to tell.  Pure.

Nothing here takes longer for more users: each change touches one of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seat:
    """One process of a node: `incarnation` tells it from others that use, or used, the name."""

    node: str
    incarnation: str
    port: int


@dataclass(frozen=True, slots=True)
class Device:
    """One connection of a user: a Socket.IO sid on a node, `since` a Unix time, `meta` what the application said."""

    sid: str
    user_id: str
    seat: Seat
    since: float
    meta: Any = None

    @property
    def node(self) -> str:
        return self.seat.node

    @property
    def port(self) -> int:
        return self.seat.port


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is online: on how many devices, on which nodes and ports (the longest there first), since when.

    `meta` is that of the device that joined last.
    """

    user_id: str
    devices: int
    nodes: tuple[str, ...]
    ports: tuple[int, ...]
    since: float
    meta: Any = None


def user_of(devices: Iterable[Device]) -> User:
    """Return the user behind `devices`, which are all of one user and at least one."""
    own = sorted(devices, key=lambda device: (device.since, device.node, device.sid))
    return User(
        user_id=own[0].user_id,
        devices=len(own),
        nodes=tuple(dict.fromkeys(device.node for device in own)),
        ports=tuple(dict.fromkeys(device.port for device in own)),
        since=own[0].since,
        meta=own[-1].meta,
    )


_Spot = tuple[str, str, str]
_Devices = Device | dict[_Spot, Device]
"""Most users have one device, which then costs no dict of its own."""


def _spot(device: Device) -> _Spot:
    return device.seat.node, device.seat.incarnation, device.sid


def _each(devices: _Devices) -> Iterable[Device]:
    return (devices,) if isinstance(devices, Device) else devices.values()


class Roster(Mapping[str, User]):
    """The users who are online, by id: a view that is always of now, as `dict.keys()` is.

    Length, `in` and `[]` cost the same however many users there are.  Whoever iterates sees the users of the moment at
    which that began, whatever changes meanwhile.
    """

    __slots__ = ("_users",)

    def __init__(self, users: dict[str, _Devices]) -> None:
        self._users = users

    def __getitem__(self, user_id: str) -> User:
        return user_of(_each(self._users[user_id]))

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._users

    def __len__(self) -> int:
        return len(self._users)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._users])

    def values(self) -> ValuesView[User]:
        return self._snapshot().values()

    def items(self) -> ItemsView[str, User]:
        return self._snapshot().items()

    def _snapshot(self) -> Mapping[str, User]:
        return {user_id: user_of(_each(devices)) for user_id, devices in self._users.items()}

    def __repr__(self) -> str:
        return f"<Roster of {len(self)}>"


@dataclass(frozen=True, slots=True)
class Change:
    """Who came and went, and who is there now.

    `joined` and `left` may be empty: a second device is no arrival.  `left` are users as they were last seen; `roster`
    is a view of now, which may know of more than this change.
    """

    roster: Roster
    joined: tuple[User, ...] = ()
    left: tuple[User, ...] = ()


@dataclass(slots=True)
class _Touched:
    """A user whose devices changed since the application was told."""

    told: bool
    """Whether the application believes that this user is online."""
    last: Device | None = None
    """The last device that went."""


class Attendance:
    """Keeps the users, and finds out what to tell: each user comes once and leaves once, with any number of devices.

    Who is back within `grace_s` has not left.  Times are those of one monotonic clock, in seconds.  `stirred` is called
    when there is something to tell again.
    """

    def __init__(self, grace_s: float, stirred: Callable[[], object]) -> None:
        self._grace_s, self._stirred = grace_s, stirred
        self._users: dict[str, _Devices] = {}
        self._touched: OrderedDict[str, _Touched] = OrderedDict()
        self._leaving: OrderedDict[str, tuple[float, User]] = OrderedDict()
        self.roster = Roster(self._users)

    def add(self, device: Device) -> None:
        """A device came."""
        user_id, users = device.user_id, self._users
        self._touch(user_id)
        there = users.get(user_id)
        if there is None:
            users[user_id] = device
        elif isinstance(there, Device):
            users[user_id] = {_spot(there): there, _spot(device): device}
        else:
            there[_spot(device)] = device

    def remove(self, device: Device) -> None:
        """A device that was added is gone."""
        user_id, users = device.user_id, self._users
        touched = self._touch(user_id)
        there = users[user_id]
        if isinstance(there, Device):
            del users[user_id]
            touched.last = device
            return
        del there[_spot(device)]
        if len(there) == 1:
            users[user_id] = next(iter(there.values()))

    def devices_of(self, user_id: str) -> list[Device]:
        """Return the devices of a user, the longest there first; none if the user is not online."""
        there = self._users.get(user_id)
        if there is None:
            return []
        return sorted(_each(there), key=lambda device: (device.since, device.node, device.sid))

    def is_due(self, now: float) -> bool:
        """Whether `collect` has something to tell."""
        due = self.due_at()
        return bool(self._touched) or (due is not None and due <= now)

    def due_at(self) -> float | None:
        """Return when the next user's grace ends, or None."""
        return next(iter(self._leaving.values()))[0] if self._leaving else None

    def collect(self, now: float, most: int) -> Change | None:
        """Return what happened since the last call, about at most `most` users; None if nothing did."""
        joined: list[User] = []
        changed = False
        for _ in range(min(most, len(self._touched))):
            user_id, touched = self._touched.popitem(last=False)
            if not touched.told and user_id not in self._users:
                continue  # came and went
            changed = True
            if user_id in self._users:
                if not touched.told:
                    joined.append(self.roster[user_id])
                self._leaving.pop(user_id, None)
            else:
                assert touched.last is not None
                self._leaving.pop(user_id, None)
                self._leaving[user_id] = (now + self._grace_s, user_of([touched.last]))
        left = tuple(self._departed(now, most))
        return Change(self.roster, tuple(joined), left) if changed or left else None

    def _departed(self, now: float, most: int) -> Iterator[User]:
        while most and self._leaving:
            user_id, (due, user) = next(iter(self._leaving.items()))
            if due > now:
                return
            del self._leaving[user_id]
            if user_id in self._touched:
                continue  # back, and told of with the next call, or leaving anew
            most -= 1
            yield user

    def _touch(self, user_id: str) -> _Touched:
        touched = self._touched.get(user_id)
        if touched is None:
            touched = _Touched(told=user_id in self._users or user_id in self._leaving)
            self._touched[user_id] = touched
            if len(self._touched) == 1:
                self._stirred()
        return touched
