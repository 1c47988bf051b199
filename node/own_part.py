"""This node's part of the directory of users: what changed here goes to Redis, in the order in which it happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from cluster.redis_link import REDIS_AWAY, reason_of
from node.pace import rest_until
from node.roster import Device

log = logging.getLogger(__name__)


class Target(Protocol):
    """Where it is written.  Every method may raise one of REDIS_AWAY; nothing is lost by that."""

    async def write(self, put: Collection[Device], drop: Collection[str]) -> bool:
        """Change this node's part; False if all of it must be written anew."""

    async def rewrite(self, own: Sequence[Device]) -> bool:
        """Make `own` this node's part; False if it must be tried again."""

    async def renew(self, count: int) -> bool:
        """Say that this node and its part of `count` devices are there; False if the part must be written anew."""

    async def withdraw(self) -> None:
        """Take this node's part away."""


class OwnPart:
    """The devices of this node, written to `target`; it is looked after each `refresh_s`.

    `lost` is called when Redis went away, or had not what we wrote: then it may have lost more.
    """

    def __init__(self, target: Target, *, refresh_s: float, lost: Callable[[], None]) -> None:
        self._target, self._refresh_s, self._lost = target, refresh_s, lost
        self.devices: dict[str, Device] = {}
        self._put: dict[str, Device] = {}
        self._drop: dict[str, None] = {}
        self._unwritten = True
        self._stirred = asyncio.Event()
        self._asking: list[asyncio.Future[None]] = []
        self.is_away = False
        """Redis did not take the last of it."""

    def put(self, device: Device) -> None:
        self.devices[device.sid] = self._put[device.sid] = device
        self._drop.pop(device.sid, None)
        self._stirred.set()

    def drop(self, sid: str) -> None:
        del self.devices[sid]
        self._put.pop(sid, None)
        self._drop[sid] = None
        self._stirred.set()

    def rewrite(self) -> None:
        """Redis may have nothing of it any more."""
        self._unwritten = True
        self._stirred.set()

    def ask(self) -> asyncio.Future[None]:
        """Return what is done when all that changed before this call was written, or could not be."""
        asked = asyncio.get_running_loop().create_future()
        self._asking.append(asked)
        self._stirred.set()
        return asked

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            self._stirred.clear()
            asked, self._asking = self._asking, []
            await self._save()
            for question in asked:
                if not question.done():
                    question.set_result(None)
            await rest_until(began, self._stirred, self._refresh_s)

    async def withdraw(self) -> None:
        """Take it away: this node leaves.  Without Redis the registry's lease does it."""
        self.devices.clear()
        try:
            await self._target.withdraw()
        except REDIS_AWAY as exc:
            log.info("users left behind: their lease will end", extra={"reason": reason_of(exc)})

    async def _save(self) -> None:
        put, drop, unwritten = [*self._put.values()], [*self._drop], self._unwritten
        self._put.clear()
        self._drop.clear()
        self._unwritten = False
        try:
            if unwritten:
                done = await self._target.rewrite([*self.devices.values()])
            elif put or drop:
                done = await self._target.write(put, drop)
            else:
                done = await self._target.renew(len(self.devices))
        except REDIS_AWAY as exc:
            self._unwritten = True
            self._lost()
            if not self.is_away:
                self.is_away = True
                log.warning("users elsewhere are as last seen", extra={"reason": reason_of(exc)})
            return
        if self.is_away:
            self.is_away = False
            log.info("users elsewhere are known again")
        if not done:
            self.rewrite()
            self._lost()
