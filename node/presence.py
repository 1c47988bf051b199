"""Who is online, on all nodes.

Each node owns the entries of its own clients and holds a picture of everybody else's.  Questions are answered from
memory; one loop exchanges the two with the other nodes and tells the application what changed.  Because every node
derives arrivals and departures from two pictures of its own, each client hears of each of them once, whatever was lost
on the way, and a node that died takes its users along as soon as the registry misses it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from cluster.redis_link import REDIS_AWAY, reason_of
from node.roster import Change, Device, Roster, change_between, roster_of

log = logging.getLogger(__name__)

SPACING_S = 0.02
MOST_SPACING_S = 1.0
REST = 4
"""Each loop rests REST times as long as it worked, within these limits.  So changes that come together are dealt with
together, and a crowd that arrives cannot take more than a part of the node's time."""

SYNC_S = 1.0
"""How long a question may wait for the directory, before it is answered as well as this node can."""

Listener = Callable[[Change], Awaitable[None]]


class Directory(Protocol):
    """Where nodes share their entries.  Every method may raise one of REDIS_AWAY; nothing is lost by that."""

    async def write(self, put: Collection[Device], drop: Collection[Device]) -> None:
        """Add and remove entries of this node."""

    async def replace(self, own: Collection[Device]) -> None:
        """Make `own` the only entries of this node."""

    async def others(self, *, fresh: bool) -> list[Device] | None:
        """Return the entries of all other nodes that are alive, or None if the directory cannot be believed now.

        With `fresh` everything that was written before this call counts; else what is known may do.
        """

    async def watch(self, stir: Callable[[], None]) -> None:
        """Call `stir` whenever another node changed something, until cancelled."""


class Alone:
    """The directory of a node without Redis: there is nobody else."""

    async def write(self, put: Collection[Device], drop: Collection[Device]) -> None:
        pass

    async def replace(self, own: Collection[Device]) -> None:
        pass

    async def others(self, *, fresh: bool) -> list[Device] | None:
        return []

    async def watch(self, stir: Callable[[], None]) -> None:
        pass


class Presence:
    """The users of one node, and its picture of all others.

    `refresh_s` is the longest time between two looks at the directory; `trust_s` is how long, after the directory was
    lost or emptied, the entries that it misses are still believed: their nodes need that long to write them again.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        node: str,
        incarnation: str,
        port: int,
        refresh_s: float,
        trust_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._node, self._incarnation, self._port = node, incarnation, port
        self._refresh_s, self._trust_s, self._now = refresh_s, trust_s, now
        self._own: dict[str, Device] = {}
        self._others: list[Device] = []
        self._put: dict[str, Device] = {}
        self._drop: dict[str, Device] = {}
        self._unwritten = True
        self._trust_until = 0.0
        self._away = False
        self._told: Roster = {}
        self._stirred = asyncio.Event()
        self._changed = asyncio.Event()
        self._asking: list[asyncio.Future[None]] = []
        self._listeners: list[Listener] = []

    @property
    def own_users(self) -> int:
        """How many users have a device on this node."""
        return len({device.username for device in self._own.values()})

    def listen(self, listener: Listener) -> None:
        """Let `listener` hear every Change, each after the one before was dealt with."""
        self._listeners.append(listener)

    def join(self, sid: str, username: str) -> None:
        """The client `sid` of this node is a device of `username` from now on, and of nobody else."""
        before = self._own.get(sid)
        if before is not None and before.username == username:
            return
        device = Device(sid, username, self._node, self._incarnation, self._port, self._now())
        self._own[sid] = self._put[sid] = device
        self._drop.pop(sid, None)
        self._stirred.set()
        self._changed.set()

    def leave(self, sid: str) -> None:
        """The client `sid` is nobody's device any more; it may never have been one."""
        device = self._own.pop(sid, None)
        if device is not None:
            self._put.pop(sid, None)
            self._drop[sid] = device
            self._stirred.set()
            self._changed.set()

    def username_of(self, sid: str) -> str | None:
        """Return whose device the client `sid` of this node is."""
        device = self._own.get(sid)
        return None if device is None else device.username

    def users(self) -> Roster:
        """Return who is online now: this node's users exactly, those of others as of a moment ago."""
        return roster_of([*self._own.values(), *self._others])

    async def synced(self) -> None:
        """Wait until what joined and left before this call is known everywhere it is asked for, and here.

        A user whose `join` was followed by this is in the answer of any node that does this too before it calls
        `users`.  While Redis is away it returns at once: then nobody can know better.
        """
        if self._away:
            return
        asked = asyncio.get_running_loop().create_future()
        self._asking.append(asked)
        self._stirred.set()
        try:
            async with asyncio.timeout(SYNC_S):
                await asked
        except TimeoutError:
            log.debug("answered without the other nodes", extra={"waited_s": SYNC_S})

    def forgotten(self) -> None:
        """The directory has lost this node's entries: write them again.  It has lost the others' as well."""
        self._unwritten = True
        self._distrust()
        self._stirred.set()

    async def run(self) -> None:
        """Exchange entries with the other nodes and tell the listeners, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._directory.watch(self._stirred.set))
            group.create_task(self._keep_exchanging())
            group.create_task(self._keep_telling())

    async def withdraw(self) -> None:
        """Take this node's entries out of the directory: it leaves.  Without Redis the registry's lease does it."""
        self._own.clear()
        try:
            await self._directory.replace([])
        except REDIS_AWAY as exc:
            log.info("entries left behind", extra={"reason": reason_of(exc)})

    async def _keep_exchanging(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            self._stirred.clear()
            asked, self._asking = self._asking, []
            await self._exchange(fresh=bool(asked))
            for question in asked:
                if not question.done():
                    question.set_result(None)
            self._changed.set()
            await _rest(began)
            try:
                async with asyncio.timeout(self._refresh_s):
                    await self._stirred.wait()
            except TimeoutError:
                pass  # time for a look

    async def _keep_telling(self) -> None:
        while True:
            await self._changed.wait()
            began = asyncio.get_running_loop().time()
            self._changed.clear()
            await self._tell()
            await _rest(began)

    async def _exchange(self, *, fresh: bool) -> None:
        put, drop, unwritten = [*self._put.values()], [*self._drop.values()], self._unwritten
        self._put.clear()
        self._drop.clear()
        self._unwritten = False
        try:
            if unwritten:
                await self._directory.replace([*self._own.values()])
            elif put or drop:
                await self._directory.write(put, drop)
            found = await self._directory.others(fresh=fresh)
        except REDIS_AWAY as exc:
            self._unwritten = True
            self._distrust()
            if not self._away:
                self._away = True
                log.warning("users elsewhere are as last seen", extra={"reason": reason_of(exc)})
            return
        if self._away:
            self._away = False
            log.info("users elsewhere are known again")
        if found is None:
            self._distrust()
        else:
            self._others = self._believed(found)

    def _distrust(self) -> None:
        self._trust_until = asyncio.get_running_loop().time() + self._trust_s

    def _believed(self, found: list[Device]) -> list[Device]:
        if asyncio.get_running_loop().time() >= self._trust_until:
            return found
        known = {device.field for device in found}
        return found + [device for device in self._others if device.field not in known]

    async def _tell(self) -> None:
        roster = self.users()
        change = change_between(self._told, roster)
        if change is not None:
            self._told = roster
            for listener in self._listeners:
                await listener(change)


async def _rest(began: float) -> None:
    worked_s = asyncio.get_running_loop().time() - began
    await asyncio.sleep(min(MOST_SPACING_S, max(SPACING_S, REST * worked_s)))
