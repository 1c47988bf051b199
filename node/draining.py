"""A node is drained: by an operator's order, which stands until it is taken back, or because its process ends.

Either way nobody new is taken at once, and those who are there talk on.  Then they are sent elsewhere little by little,
so that the other nodes have time to greet them.  docs/operations.md has the rules, lb/drains.py what gives orders.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Protocol

from cluster.config import Nodes
from cluster.member import Drain, State
from cluster.redis_link import REDIS_AWAY, reason_of
from node.adoption import Adoption
from node.announce import SIGN_OFF_S, Announcer
from node.engine import CLOSE_WAIT_S
from node.server import Server

log = logging.getLogger(__name__)

TICK_S = 0.05
"""How often some are sent away, once it is time."""

LOOK_S = 0.5
"""How often it is seen whether it is time: an order counts in wall clock time, which may be set."""

MOST_LATE_S = 0.5
"""A loop that was busy makes up for so much at most: all at once is what the pace is to prevent."""


class Allowance:
    """How many may go now, at a pace that may change.  Pure."""

    def __init__(self) -> None:
        self._owed = 0.0
        self._at: float | None = None

    def take(self, per_s: float, now: float) -> int:
        """Return how many may go at `now` (monotonic seconds), at `per_s` since the last time."""
        passed_s = TICK_S if self._at is None else min(now - self._at, MOST_LATE_S)
        self._at = now
        owed = self._owed + passed_s * per_s
        self._owed = owed - int(owed)
        return int(owed)


class OrderBook(Protocol):
    """Where orders are read: cluster/orders.py, or without Redis cluster/written_orders.py."""

    async def of(self, node: str, before: Drain | None = None) -> Drain | None:
        """Return the order to `node`, None if there is none; `before` where that cannot be known.

        May raise one of REDIS_AWAY.
        """
        ...


class Draining:
    """Lets the node `name` with the application `sio` drain, and serve again.  Without `orders` nobody can order it."""

    adoption: Adoption | None = None
    """Where balancers hand connections over, if they do."""

    def __init__(
        self,
        name: str,
        sio: Server,
        announcer: Announcer,
        orders: OrderBook | None,
        nodes: Nodes,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._sio, self._announcer = name, sio, announcer
        self._orders = orders
        self._heartbeat_s, self._drain_s, self._close_per_s = nodes.heartbeat_s, nodes.drain_s, nodes.close_per_s
        self._wall = wall
        self._order: Drain | None = None
        self._told = ""

    async def begin(self) -> None:
        """Say for the first time how the node is: ready, or drained since before it was started."""
        if self._orders is not None:
            try:
                async with asyncio.timeout(SIGN_OFF_S):
                    self._order = await self._asked(self._orders)
            except TimeoutError:
                log.info("start without orders: Redis does not answer")
        await self._enter()

    async def run(self) -> None:
        """Obey, until cancelled."""
        if self._orders is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(self._orders))
            group.create_task(self._obey(group))

    async def _follow(self, orders: OrderBook) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s * random.uniform(0.9, 1.0))
            before, self._order = self._order, await self._asked(orders)
            if (before is None) is not (self._order is None):
                await self._enter()

    async def _asked(self, orders: OrderBook) -> Drain | None:
        try:
            return await orders.of(self._name, self._order)
        except REDIS_AWAY as exc:
            # The heartbeat reports the outage.  An order stands until it is taken back.
            log.debug("order not read", extra={"reason": reason_of(exc)})
            return self._order

    async def _enter(self) -> None:
        """Take new clients, or do not, as ordered, and tell everybody."""
        order = self._order
        self._refuse(order is not None)
        if order is None:
            if self._announcer.state is State.DRAINING:
                log.info("drained no more", extra={"node": self._name})
            await self._announcer.enter(State.READY)
            return
        facts = {"node": self._name, "clients": self._clients, "drain_s": order.drain_s, "per_s": order.close_per_s}
        log.info("drained by an operator", extra=facts)
        await self._announcer.enter(State.DRAINING)

    def _refuse(self, refuses: bool) -> None:
        self._sio.eio.leaving = refuses
        if self.adoption is not None:
            self.adoption.leaving = refuses

    # An order's time is over

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        """Send clients away while it is time for that."""
        loop, allowance = asyncio.get_running_loop(), Allowance()
        while True:
            order, late_s = self._order, self._late_s()
            self._tell_progress(late_s)
            if order is None or late_s < 0:
                allowance = Allowance()
                await asyncio.sleep(min(LOOK_S, -late_s))
                continue
            # Who waits for an answer gets it, but nobody stays for ever.
            self._send_away(allowance.take(order.close_per_s, loop.time()), tasks, patient=late_s < self._drain_s)
            await asyncio.sleep(TICK_S if self._clients else LOOK_S)

    def _late_s(self) -> float:
        """Return for how long clients should have gone."""
        order = self._order
        return -math.inf if order is None else self._wall() - order.since - order.drain_s

    def _tell_progress(self, late_s: float) -> None:
        if late_s < 0:
            self._told = ""
            return
        clients = self._clients
        said = "clients are sent elsewhere" if clients else "no client is left"
        if said != self._told:
            log.info(said, extra={"node": self._name, "clients": clients})
        self._told = said

    @property
    def _clients(self) -> int:
        return self._sio.eio.clients

    def _send_away(self, most: int, tasks: asyncio.TaskGroup, *, patient: bool, within_s: float = CLOSE_WAIT_S) -> None:
        """Send up to `most` clients away; if `patient`, none for whom a handler runs."""
        engine = self._sio.eio
        if most:
            gone = engine.send_away(most, engine.handler.moving.busy() if patient else ())
            engine.guests.send_away(most - gone, tasks, within_s)

    # The process ends

    async def leave(self) -> None:
        """Send all clients elsewhere within `nodes.drain_s`.

        The balancers know first, handlers that run come to an end, then the clients are told.
        """
        loop, engine = asyncio.get_running_loop(), self._sio.eio
        deadline = loop.time() + self._drain_s
        self._refuse(True)
        log.info("leaving", extra={"node": self._name, "clients": self._clients})
        try:
            # A Redis that hangs must not use up what the clients' goodbye needs.
            async with asyncio.timeout(min(SIGN_OFF_S, self._drain_s / 4)):
                await self._announcer.enter(State.DRAINING)
        except TimeoutError:
            log.warning("leaving unannounced: Redis does not answer")
        # Half of the time for answers that clients wait for; the other half to tell all of them to go.
        await self._sio.handled((deadline - loop.time()) / 2)
        async with asyncio.TaskGroup() as tasks:
            await self._spread(deadline, tasks)
            left_s = deadline - loop.time()
            cuts = await asyncio.gather(engine.close_all(left_s), engine.guests.close_all(left_s))
        still = await self._sio.handled(deadline - loop.time())
        log.info("clients told to go", extra={"cut": sum(cuts), "handlers_left": still})

    async def _spread(self, deadline: float, tasks: asyncio.TaskGroup) -> None:
        """Send clients away at the pace of an order, or as much faster as they must go to be gone in time."""
        loop, allowance = asyncio.get_running_loop(), Allowance()
        # The last ones must have time to answer.
        end = deadline - min(CLOSE_WAIT_S, (deadline - loop.time()) / 2)
        while (clients := self._clients) and (left_s := end - loop.time()) > TICK_S:
            per_s = max(self._close_per_s, clients / left_s)
            within_s = min(CLOSE_WAIT_S, deadline - loop.time())
            self._send_away(allowance.take(per_s, loop.time()), tasks, patient=True, within_s=within_s)
            await asyncio.sleep(TICK_S)
