"""The users of all other nodes: their parts of the directory, kept in step.

Changes come by themselves (node/directory.py's `watch`).  A look at where the parts are finds what was missed, and only
that is read.  Nodes that the registry misses take their users along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

from node.parts import Delta, Keeper, Part, Position
from node.roster import Seat

log = logging.getLogger(__name__)

CATCH_UP_S = 0.5
"""How long a change may be under way before it counts as lost."""

MOST_READINGS = 3
"""How often in a row a part is read that changes were missed of meanwhile.  Then the next look goes on."""

Place = tuple[str, str]
"""Name and incarnation of a node."""


class Source(Protocol):
    """What is read of the directory.  Every method may raise one of REDIS_AWAY; nothing is lost by that."""

    async def positions(self) -> dict[Place, Position]: ...

    async def position(self, seat: Seat) -> Position | None: ...

    async def seats(self) -> set[Seat]: ...

    def entries(self, seat: Seat, base: int) -> AsyncIterator[list[tuple[str, Any]]]: ...

    async def sweep(self, place: Place, base: int) -> None: ...


class Replicas:
    """The parts of all nodes but that in `seat`; `keeper` hears of their devices.

    `refresh_s` is the longest time between two looks at the registry.  `trust_s` is how long, after the directory was
    lost or emptied, nodes that it misses are still believed to be there: they need that long to come back.
    """

    def __init__(self, source: Source, seat: Seat, keeper: Keeper, *, refresh_s: float, trust_s: float) -> None:
        self._source, self._seat, self._keeper = source, seat, keeper
        self._refresh_s, self._trust_s = refresh_s, trust_s
        self._parts: dict[Place, Part] = {}
        self._seats: dict[Place, Seat] = {}
        self._seats_due = float("-inf")
        self._trust_until = 0.0
        self._heard = asyncio.Event()
        self.due = asyncio.Event()
        """Set when a look should not wait for its time."""
        self.readings = 0
        """How often a part was read."""

    def hear(self, delta: Delta) -> None:
        """Another node says what changed."""
        part = self._parts.get((delta.node, delta.incarnation))
        if part is None or not part.hear(delta):
            self.due.set()
        self._heard.set()

    def stir(self) -> None:
        """Nodes may have come or gone, or changes may have been missed."""
        self._seats_due = float("-inf")
        self.due.set()

    def distrust(self) -> None:
        """The directory was lost, or has lost something: whoever it misses may come back."""
        self._trust_until = asyncio.get_running_loop().time() + self._trust_s
        self.stir()

    async def look(self) -> None:
        """Bring all parts to where the directory says that they are now.  May raise one of REDIS_AWAY."""
        # Parts before the registry: a node announces itself first, so its part is never seen without it.
        positions = await self._source.positions()
        await self._look_at_registry(positions)
        own = (self._seat.node, self._seat.incarnation)
        if own not in self._seats:
            # A registry that does not know us has just been emptied: nor does it know the others.
            self.distrust()
            return
        if asyncio.get_running_loop().time() >= self._trust_until:
            await self._bury(positions)
        for place, seat in self._seats.items():
            if place != own and place not in self._parts:
                self._parts[place] = Part(seat, self._keeper)
        # An alive node without a position has none yet, or is about to write all anew.
        wanted = [(part, at) for place, part in self._parts.items() if (at := positions.get(place)) is not None]
        await self._catch_up([(part, at) for part, at in wanted if part.can_reach(at)])
        for part, at in wanted:
            if not part.has_reached(at):
                await self._read(part)

    async def _look_at_registry(self, positions: Iterable[Place]) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._seats_due or any(place not in self._seats for place in positions):
            self._seats_due = now + self._refresh_s
            self._seats = {(seat.node, seat.incarnation): seat for seat in await self._source.seats()}

    async def _bury(self, positions: dict[Place, Position]) -> None:
        for place in [place for place in self._parts if place not in self._seats]:
            await _stepping(self._parts.pop(place).erase())
        for place, at in positions.items():
            if place not in self._seats:
                await self._source.sweep(place, at.base)

    async def _catch_up(self, behind: list[tuple[Part, Position]]) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while any(not part.has_reached(at) for part, at in behind if part.can_reach(at)):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            log.debug("changes of users lost", extra={"waited_s": CATCH_UP_S})

    async def _read(self, part: Part) -> None:
        for _ in range(MOST_READINGS):
            self.readings += 1
            part.begin()
            try:
                at = await self._source.position(part.seat)
                if at is None:
                    return
                part.start(at)
                async for piece in self._source.entries(part.seat, at.base):
                    part.read(piece)
                after = await self._source.position(part.seat)
                if after is None or after.base != at.base:
                    # It began anew meanwhile: what was not there may only have been removed with the former one.
                    continue
                await _stepping(part.complete())
            finally:
                if part.is_being_read:
                    part.give_up()
            if part.at is not None:
                break
        else:
            self.due.set()
        if part.unreadable:
            log.warning("entries ignored", extra={"node": part.seat.node, "unreadable": part.unreadable})
            part.unreadable = 0


async def _stepping(steps: Iterator[None]) -> None:
    for _ in steps:
        await asyncio.sleep(0)
