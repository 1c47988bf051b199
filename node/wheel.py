"""One timer for the heartbeats of all sessions: a wheel whose members sit in slots by the time at which they are due.

No timer handle for each connection, no task; while nothing sits in it, nothing runs.  A member is taken out of its
slot when its time comes, and may be put in again.
"""

from __future__ import annotations

import asyncio
from math import ceil, floor
from typing import Protocol

OUT = -1
"""The slot of a member that sits in none."""

AT_ONCE = 500
"""Members whose time has come that are told in one turn of the event loop; the others wait for the next."""


class Member(Protocol):
    """Who may sit in a wheel, in one slot at a time."""

    slot: int

    def due(self, now: float) -> None:
        """Its time has come, on the clock of the event loop."""


class Wheel:
    """Tells its members when they are due, at most `tick_s` seconds before or after."""

    __slots__ = ("_done", "_loop", "_slots", "_timer", "tick_s")

    def __init__(self, tick_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.tick_s = tick_s
        self._loop = loop
        self._slots: dict[int, set[Member]] = {}
        self._timer: asyncio.Handle | None = None
        self._done = 0
        """All slots up to this one have been emptied."""

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def put_before(self, member: Member, at: float) -> None:
        """Tell `member` between `at - tick_s` and `at`."""
        self._put(member, floor(at / self.tick_s))

    def put_after(self, member: Member, at: float) -> None:
        """Tell `member` between `at` and `at + tick_s`."""
        self._put(member, ceil(at / self.tick_s))

    def sits_until(self, member: Member) -> float:
        """Return when the slot of `member` comes up."""
        return member.slot * self.tick_s

    def remove(self, member: Member) -> None:
        """Take `member` out, wherever it sits."""
        members = self._slots.get(member.slot)
        if members is not None:
            members.discard(member)
            if not members:
                del self._slots[member.slot]
        member.slot = OUT

    def stop(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for members in self._slots.values():
            for member in members:
                member.slot = OUT
        self._slots.clear()

    def _put(self, member: Member, slot: int) -> None:
        if member.slot != OUT:
            self.remove(member)
        if self._timer is None:
            self._done = floor(self._loop.time() / self.tick_s)
            self._set_timer()
        member.slot = slot = max(slot, self._done + 1)
        members = self._slots.get(slot)
        if members is None:
            self._slots[slot] = {member}
        else:
            members.add(member)

    def _set_timer(self) -> None:
        self._timer = self._loop.call_at((self._done + 1) * self.tick_s, self._turn)

    def _turn(self) -> None:
        try:
            is_done = self._tell(self._loop.time())
        except BaseException:
            # The event loop reports it.  Should a member fail, the others are told all the same.
            self._timer = self._loop.call_soon(self._turn)
            raise
        if not is_done:
            self._timer = self._loop.call_soon(self._turn)
        elif self._slots:
            self._set_timer()
        else:
            self._timer = None

    def _tell(self, now: float) -> bool:
        """Tell those that are due; return False if that were too many for one turn."""
        # At least the slot that the timer was set for, however the division is rounded.
        left, last = AT_ONCE, max(floor(now / self.tick_s), self._done + 1)
        while self._done < last:
            members = self._slots.get(self._done + 1)
            while members:
                if not left:
                    return False
                left -= 1
                member = members.pop()
                member.slot = OUT
                member.due(now)
            self._slots.pop(self._done + 1, None)
            self._done += 1
        return True
