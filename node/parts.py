"""What another node says of its users, kept in step from here.  Pure.

Each node writes its own part of the directory, and tells everybody each change under a number.  Who hears all of them
has the same part.  Who misses one sees the gap, and reads that part again, piece by piece, while it goes on changing;
until that is done the former entries stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from node.roster import Device, Seat

FORMAT = 1
"""The first element of what is published; other numbers are other versions of ours."""


AT_ONCE = 500
"""How many devices are dropped in one go, before others have their turn."""


class BadEntry(ValueError):
    """Something of another node that cannot be read: written by another version, or by somebody else."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a part is: the number of its last change, and that of the change that began it anew."""

    base: int
    version: int

    def __str__(self) -> str:
        return f"{self.base} {self.version}"

    @classmethod
    def from_text(cls, text: str) -> Position:
        """Read what `str` wrote.  Raises BadEntry."""
        base, _, version = text.partition(" ")
        if not (base.isdecimal() and version.isdecimal() and base.isascii() and version.isascii()):
            raise BadEntry(f"position {text[:60]!r} is not `<base> <version>`")
        return cls(int(base), int(version))


NOWHERE = Position(0, 0)
"""Where a part is that was never written: real positions begin with 1."""


def entry_of(device: Device) -> dict[str, Any]:
    """Return what is written of a device beside its sid and its node."""
    entry = {"user": device.user_id, "since": device.since}
    return entry if device.meta is None else {**entry, "meta": device.meta}


def device_from(sid: str, entry: Any, seat: Seat) -> Device:
    """Read what `entry_of` returned.  Raises BadEntry."""
    if not isinstance(entry, dict):
        raise BadEntry(f"{seat.node} {sid}: an object was expected, not {type(entry).__name__}")
    user_id, since = entry.get("user"), entry.get("since")
    if not isinstance(user_id, str) or isinstance(since, bool) or not isinstance(since, int | float):
        raise BadEntry(f"{seat.node} {sid}: user or since is missing, or of the wrong type")
    return Device(sid, user_id, seat, float(since), entry.get("meta"))


@dataclass(frozen=True, slots=True)
class Delta:
    """One change of a part: it was at `before` and is at `at` now.

    At a position that begins anew (`at.base == at.version`) nothing of it is told, and whoever needs it reads it.
    """

    node: str
    incarnation: str
    at: Position
    before: int = 0
    put: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    @property
    def begins_anew(self) -> bool:
        return self.at.base == self.at.version

    def to_json(self) -> bytes:
        return orjson.dumps(
            [FORMAT, self.node, self.incarnation, self.at.base, self.at.version, self.before, self.put, self.drop]
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Delta:
        """Read what `to_json` wrote.  Raises BadEntry."""
        try:
            kind, node, incarnation, base, version, before, put, drop = orjson.loads(text)
        except (ValueError, TypeError) as exc:
            raise BadEntry(f"not a change of presence: {exc}") from None
        if type(kind) is not int or kind != FORMAT:
            raise BadEntry(f"a change of presence in format {kind if type(kind) is int else '?'}; known is {FORMAT}")
        texts, numbers = (node, incarnation), (base, version, before)
        if not all(isinstance(each, str) for each in texts) or not all(type(each) is int for each in numbers):
            raise BadEntry("a change of presence with values of the wrong type")
        if not isinstance(put, dict) or not isinstance(drop, list) or not all(isinstance(sid, str) for sid in drop):
            raise BadEntry("a change of presence with entries of the wrong type")
        return cls(node, incarnation, Position(base, version), before, put, tuple(drop))


class Keeper(Protocol):
    """Who is told of the devices that come and go."""

    def add(self, device: Device) -> None: ...

    def remove(self, device: Device) -> None: ...


@dataclass(slots=True)
class _Reading:
    """A part that is being read."""

    at: Position | None = None
    """Where it was when that began, or has come since; None before that is known."""
    waiting: list[Delta] = field(default_factory=list)
    """Changes that came before that was known."""
    touched: set[str] = field(default_factory=set)
    """Whom changes told of meanwhile: they know better than what was read."""
    seen: set[str] = field(default_factory=set)
    broken: bool = False


class Part:
    """The devices of the node in one `seat`, as far as we know."""

    def __init__(self, seat: Seat, keeper: Keeper) -> None:
        self.seat = seat
        self.at: Position | None = None
        """Where it is; None if that is not known, so that it must be read."""
        self._keeper = keeper
        self._devices: dict[str, Device] = {}
        self._reading: _Reading | None = None
        self.unreadable = 0
        """Entries that were left out."""

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def is_being_read(self) -> bool:
        return self._reading is not None

    def has_reached(self, at: Position) -> bool:
        return self.at is not None and self.at >= at

    def can_reach(self, at: Position) -> bool:
        """Whether changes that are under way may bring it to `at`."""
        return self.at is not None and self.at.base >= at.base

    def hear(self, delta: Delta) -> bool:
        """Take a change over; False if one before it is missing, so that the part must be read."""
        if self._reading is not None:
            return self._hear_reading(self._reading, delta)
        if self.at is None:
            return False
        if delta.at.version <= self.at.version:
            return True
        if not _follows(self.at, delta):
            self.at = None
            return False
        self.at = delta.at
        self._apply(delta)
        return True

    def _hear_reading(self, reading: _Reading, delta: Delta) -> bool:
        if reading.at is None:
            reading.waiting.append(delta)
            return True
        if delta.at.version <= reading.at.version:
            return True
        if not _follows(reading.at, delta):
            reading.broken = True
            return False
        reading.at = delta.at
        reading.touched.update(delta.put)
        reading.touched.update(delta.drop)
        self._apply(delta)
        return True

    def begin(self) -> None:
        """It is about to be read: every change from now on counts."""
        self._reading, self.at = _Reading(), None

    def start(self, at: Position) -> None:
        """It was at `at` after `begin`, so all changes up to there will be in what is read."""
        reading = self._begun()
        reading.at = at
        for delta in reading.waiting:
            self._hear_reading(reading, delta)
        reading.waiting.clear()

    def read(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Take over a piece of what is read: sids and what `entry_of` wrote of them."""
        reading = self._begun()
        for sid, entry in entries:
            reading.seen.add(sid)
            if sid not in reading.touched:
                self._put(sid, entry)

    def complete(self) -> Iterator[None]:
        """All is read: drop, in steps, what was not there.  Then the part is in step, unless a change was missed."""
        reading = self._begun()
        yield from self._drop(unless=lambda sid: sid in reading.seen or sid in reading.touched)
        self._reading, self.at = None, None if reading.broken else reading.at

    def give_up(self) -> None:
        """It could not be read to the end: the former entries stand, and what was read beside them."""
        self._reading, self.at = None, None

    def erase(self) -> Iterator[None]:
        """Its node is gone: drop all of it, in steps."""
        self.give_up()
        yield from self._drop(unless=lambda sid: False)

    def _begun(self) -> _Reading:
        assert self._reading is not None, "begin() comes first"
        return self._reading

    def _drop(self, unless: Callable[[str], bool]) -> Iterator[None]:
        for number, sid in enumerate([*self._devices], 1):
            if not unless(sid):
                self._remove(sid)
            if number % AT_ONCE == 0:
                yield

    def _apply(self, delta: Delta) -> None:
        for sid in delta.drop:
            self._remove(sid)
        for sid, entry in delta.put.items():
            self._put(sid, entry)

    def _put(self, sid: str, entry: Any) -> None:
        try:
            device = device_from(sid, entry, self.seat)
        except BadEntry:
            # One unreadable entry must not hide the others; who reads the part says how many there were.
            self.unreadable += 1
            return
        before = self._devices.get(sid)
        if before == device:
            return
        if before is not None:
            self._keeper.remove(before)
        self._devices[sid] = device
        self._keeper.add(device)

    def _remove(self, sid: str) -> None:
        device = self._devices.pop(sid, None)
        if device is not None:
            self._keeper.remove(device)


def _follows(at: Position, delta: Delta) -> bool:
    return delta.at.base == at.base and delta.before == at.version
