"""Who is online, on all nodes: `sio.presence`.

Each node knows all users, and answers from memory.  It owns the entries of its own clients, writes them to the
directory in Redis as its part of it (node/own_part.py), and follows the parts of the others (node/replicas.py).
Because every node derives arrivals and departures from what it knows, each client hears of each of them once, whatever
was lost on the way, and a node that died takes its users along as soon as the registry misses it.

What a change costs does not depend on the number of users: docs/presence.md has figures.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

import orjson

from cluster.redis_link import REDIS_AWAY, reason_of
from node.own_part import OwnPart, Target
from node.pace import SPACING_S, rest, rest_until
from node.parts import Delta, device_from, entry_of
from node.replicas import Replicas, Source
from node.roster import Attendance, Change, Device, Roster, Seat

log = logging.getLogger(__name__)

SYNC_S = 1.0
"""How long a question may wait for the directory, before it is answered as well as this node can."""

TOLD_AT_ONCE = 250
"""Users in one Change."""

MOST_USER_ID_BYTES = 256
MOST_META_BYTES = 1024

Listener = Callable[[Change], Awaitable[None]]


class Directory(Source, Target, Protocol):
    """Where nodes share their users."""

    async def watch(self, heard: Callable[[Delta], None], stir: Callable[[], None]) -> None:
        """Pass on what other nodes change, and `stir` when something may have been missed, until cancelled."""


class Written:
    """What `join` and `leave` return.  Await it to know that the other nodes can know; without, that comes soon."""

    __slots__ = ("_presence",)

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def __await__(self) -> Generator[Any, None, None]:
        return self._presence.written().__await__()


class Presence:
    """The users of the node in `seat`, and all others.

    `directory` is None for a node without Redis: then there is nobody else.  `refresh_s` is the longest time between
    two looks at the directory; `trust_s` how long nodes are believed to be there that the directory misses after it was
    lost or emptied; `grace_s` how long a user without a device has not left yet.
    """

    def __init__(
        self,
        directory: Directory | None,
        seat: Seat,
        *,
        refresh_s: float,
        trust_s: float,
        grace_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._seat, self._refresh_s, self._now = directory, seat, refresh_s, now
        self._changed = asyncio.Event()
        self._attendance = Attendance(grace_s, self._changed.set)
        self._devices: dict[str, Device] = {}
        self._counts: Counter[str] = Counter()
        self._asking: list[asyncio.Future[None]] = []
        self._listeners: list[Listener] = []
        self._part: OwnPart | None = None
        self._replicas: Replicas | None = None
        if directory is not None:
            replicas = Replicas(directory, seat, self._attendance, refresh_s=refresh_s, trust_s=trust_s)
            self._part = OwnPart(directory, refresh_s=refresh_s, lost=replicas.distrust)
            self._devices, self._replicas = self._part.devices, replicas

    # Who comes and goes here

    def join(self, sid: str, user_id: str, meta: Any = None) -> Written:
        """The client `sid` of this node is a device of `user_id` from now on, and of nobody else.

        It holds at once; `await` what is returned to know that it is written for the other nodes.  `meta` is what
        others shall know of this device: at most 1 KiB of JSON.

        Raises TypeError or ValueError for a user_id or a meta that cannot be kept.
        """
        _check_user_id(user_id)
        kept = _kept(meta)
        before = self._devices.get(sid)
        since = self._now()
        if before is not None:
            if (before.user_id, before.meta) == (user_id, kept):
                return Written(self)
            if before.user_id == user_id:
                since = before.since
            self._forget(before)
        self._add(Device(sid, user_id, self._seat, since, kept))
        return Written(self)

    def leave(self, sid: str) -> Written:
        """The client `sid` is nobody's device any more; it may never have been one."""
        device = self._devices.get(sid)
        if device is not None:
            self._forget(device)
            if self._part is None:
                del self._devices[sid]
            else:
                self._part.drop(sid)
        return Written(self)

    def take(self, sid: str) -> Any:
        """As `leave`; return what `give` needs to let the client go on elsewhere, as plain data, or None."""
        device = self._devices.get(sid)
        if device is None:
            return None
        self.leave(sid)
        return entry_of(device)

    def give(self, sid: str, taken: Any) -> None:
        """The client `sid` came here from another process, with what `take` returned there."""
        device = device_from(sid, taken, self._seat)
        self.leave(sid)
        self._add(device)

    def _add(self, device: Device) -> None:
        self._attendance.add(device)
        self._counts[device.user_id] += 1
        if self._part is None:
            self._devices[device.sid] = device
        else:
            self._part.put(device)

    def _forget(self, device: Device) -> None:
        self._attendance.remove(device)
        self._counts[device.user_id] -= 1
        if not self._counts[device.user_id]:
            del self._counts[device.user_id]

    # Questions

    def users(self) -> Roster:
        """Return who is online, a view of now: this node's users exactly, those of others as of a moment ago."""
        return self._attendance.roster

    def is_online(self, user_id: str) -> bool:
        """Whether the user has a device now, on any node."""
        return user_id in self._attendance.roster

    def sessions(self, user_id: str) -> list[Device]:
        """Return the devices of a user on all nodes, the longest there first."""
        return self._attendance.devices_of(user_id)

    def user_of(self, sid: str) -> str | None:
        """Return whose device the client `sid` of this node is."""
        device = self._devices.get(sid)
        return None if device is None else device.user_id

    @property
    def own_users(self) -> int:
        """How many users have a device on this node."""
        return len(self._counts)

    async def written(self) -> None:
        """Wait until what joined and left here before this call is in Redis.  While Redis is away, return at once."""
        if self._part is not None and not self._part.is_away:
            await _answer(self._part.ask())

    async def synced(self) -> None:
        """Wait until what joined and left before this call is known everywhere it is asked for, and here.

        A user whose `join` was followed by this is in the answer of any node that does this too before it calls
        `users`.  While Redis is away it returns at once: then nobody can know better.
        """
        await self.written()
        if self._replicas is not None and self._part is not None and not self._part.is_away:
            asked = asyncio.get_running_loop().create_future()
            self._asking.append(asked)
            self._replicas.due.set()
            await _answer(asked)

    # What the node runs

    def listen(self, listener: Listener) -> None:
        """Let `listener` hear every Change, each after the one before was dealt with."""
        self._listeners.append(listener)

    def forgotten(self) -> None:
        """The directory has lost this node's entries: write them again.  It has lost the others' as well."""
        if self._part is not None and self._replicas is not None:
            self._part.rewrite()
            self._replicas.distrust()

    async def run(self) -> None:
        """Keep in step with the other nodes, and tell the listeners, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_telling())
            if self._directory is not None and self._part is not None and self._replicas is not None:
                group.create_task(self._directory.watch(self._replicas.hear, self._replicas.stir))
                group.create_task(self._part.run())
                group.create_task(self._keep_looking(self._replicas))

    async def withdraw(self) -> None:
        """This node leaves, and its users with it."""
        for device in [*self._devices.values()]:
            self._forget(device)
        self._devices.clear()
        if self._part is not None:
            await self._part.withdraw()

    async def _keep_looking(self, replicas: Replicas) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            replicas.due.clear()
            asked, self._asking = self._asking, []
            try:
                await replicas.look()
            except REDIS_AWAY as exc:
                # Whoever writes our own part meets the same fault and tells of it.
                log.debug("users elsewhere are not looked for", extra={"reason": reason_of(exc)})
                replicas.distrust()
            for question in asked:
                if not question.done():
                    question.set_result(None)
            await rest_until(began, replicas.due, self._refresh_s)

    async def _keep_telling(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news()
            began = loop.time()
            change = self._attendance.collect(began, TOLD_AT_ONCE)
            if change is not None:
                for listener in self._listeners:
                    await _tell(listener, change)
            # What is left over waits for nothing that could come with it.
            await rest(began, 0 if self._attendance.is_due(loop.time()) else SPACING_S)

    async def _news(self) -> None:
        """Wait until there is something to tell."""
        loop, attendance = asyncio.get_running_loop(), self._attendance
        while not attendance.is_due(loop.time()):
            self._changed.clear()
            due = attendance.due_at()
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass  # somebody's grace is over


async def _answer(asked: asyncio.Future[None]) -> None:
    try:
        async with asyncio.timeout(SYNC_S):
            await asked
    except TimeoutError:
        log.debug("answered without the other nodes", extra={"waited_s": SYNC_S})


async def _tell(listener: Listener, change: Change) -> None:
    try:
        await listener(change)
    except Exception:
        # The application's own code: anything may happen in it, and the next change is worth telling all the same.
        log.exception("a listener of presence failed")


def _check_user_id(user_id: object) -> None:
    if not isinstance(user_id, str):
        raise TypeError(f"user_id must be a str, not {type(user_id).__name__}")
    try:
        size = len(user_id.encode())
    except UnicodeEncodeError:
        raise ValueError("user_id must be encodable as UTF-8") from None
    if not 1 <= size <= MOST_USER_ID_BYTES:
        raise ValueError(f"user_id must have 1 to {MOST_USER_ID_BYTES} bytes, not {size}")


def _kept(meta: Any) -> Any:
    """Return `meta` as other nodes will see it; a copy, so that nothing changes it here alone."""
    if meta is None:
        return None
    try:
        text = orjson.dumps(meta)
    except TypeError as exc:
        raise TypeError(f"meta must be JSON: {exc}") from None
    if len(text) > MOST_META_BYTES:
        raise ValueError(f"meta must have at most {MOST_META_BYTES} bytes of JSON, not {len(text)}")
    return orjson.loads(text)
