"""New clients pass one after the other, at a pace: everybody comes back at once when a network or a node was away.

A handshake costs a node a hundred times what a message costs it.  So those who come faster than nodes can greet them
wait for a short while, in the order in which they came, and who would wait too long is told to come again later, each
at another moment.  A client that has its session already (its sid says so) goes to its node unasked.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from cluster.config import Lb
from lb.affinity import Client
from lb.errors import BalancerError, Busy, NoNodeAvailable
from lb.pacing import Pace
from lb.pool import Pool
from lb.route import Choice, Router

LOOK_S = 0.003
"""How often those who wait are looked at.  So many milliseconds' worth of turns a node gets at once, and each takes it
half a millisecond in which it does nothing for others."""

RETRY_WITHIN_S = 5
"""Who is sent away may come again after 1 s to so many, by chance: not all at once again."""


class Waiter(Protocol):
    """Who waits for a turn."""

    @property
    def client(self) -> Client: ...

    @property
    def is_gone(self) -> bool:
        """Whether it wants none any more."""

    def called(self, outcome: Choice | BalancerError) -> None:
        """It is its turn, or Busy, or NoNodeAvailable."""


@dataclass(eq=False, slots=True)
class _Place:
    waiter: Waiter
    until: float
    """How long it is kept, in the event loop's seconds."""


@dataclass(eq=False, slots=True)
class _Task:
    """A task that waits."""

    client: Client
    turn: asyncio.Future[Choice]

    @property
    def is_gone(self) -> bool:
        return self.turn.done()  # cancelled, in this very turn of the event loop

    def called(self, outcome: Choice | BalancerError) -> None:
        if isinstance(outcome, BalancerError):
            self.turn.set_exception(outcome)
        else:
            self.turn.set_result(outcome)


@dataclass(eq=False)
class Turnstile:
    """Chooses nodes for new clients.  `share` is the part of the limits that is this worker's."""

    pool: Pool
    router: Router
    limits: Lb
    share: float = 1.0
    rng: Callable[[], float] = random.random
    _waiting: OrderedDict[int, _Place] = field(default_factory=OrderedDict)
    """In the order in which they came."""
    _timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._pace = Pace(self.limits.handshakes_per_s * self.share)
        self._numbers = count()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """How many clients wait for their turn."""
        return len(self._waiting)

    def pass_now(self, client: Client) -> Choice | None:
        """Return the node for a client that need not wait, or None.  Raises NoNodeAvailable."""
        if client.sid:
            return self.router.route(self.pool, client)
        if self._waiting:
            return None
        return self._place(client, self.pool.clock())

    async def choose(self, client: Client) -> Choice:
        """Return the node for a client, when it is its turn.  Raises Busy, or NoNodeAvailable."""
        choice = self.pass_now(client)
        if choice is not None:
            return choice
        task = _Task(client, self._loop.create_future())
        number = self.wait(task)
        try:
            return await task.turn
        finally:
            self.give_up(number)

    def wait(self, waiter: Waiter) -> int:
        """Let `waiter` wait behind the others, and return its place.  Raises Busy."""
        if len(self._waiting) >= self._most_waiting():
            raise self._busy()
        number = next(self._numbers)
        self._waiting[number] = _Place(waiter, self._loop.time() + self.limits.handshake_wait_s)
        self._look_again()
        return number

    def give_up(self, number: int) -> None:
        """Let nobody wait in the place `number` any more."""
        self._waiting.pop(number, None)

    def close(self) -> None:
        """Send all away that wait."""
        while self._waiting:
            _, place = self._waiting.popitem(last=False)
            if not place.waiter.is_gone:
                place.waiter.called(self._busy())

    def choose_again(self, client: Client, tried: Collection[str]) -> Choice:
        """Return another node, none of `tried`, for a client that had its turn.  Raises Busy, or NoNodeAvailable."""
        if client.sid:
            return self.router.route(self.pool, client, tried)
        now = self.pool.clock()
        choice = self.router.place(self.pool, client, now, tried)
        if choice is None:
            raise self._busy()
        _take(choice, now)
        return choice

    def _most_waiting(self) -> int:
        """Return how many may wait: not more than can have their turn in time, as the others would wait for nothing."""
        ready = sum(node.takes_new for node in self.pool)
        of_nodes = self.pool.terms.handshakes_per_s * ready
        per_s = min((limit for limit in (self.limits.handshakes_per_s, of_nodes) if limit), default=math.inf)
        wait_s = self.limits.handshake_wait_s
        return int(min(self.limits.most_waiting, per_s * self.share * wait_s)) if wait_s else 0

    def _place(self, client: Client, now: float) -> Choice | None:
        if self._pace.opens_at > now:
            return None
        choice = self.router.place(self.pool, client, now)
        if choice is not None:
            self._pace.take(now)
            _take(choice, now)
        return choice

    def _busy(self) -> Busy:
        return Busy(len(self._waiting), retry_after_s=1 + int(self.rng() * RETRY_WITHIN_S))

    def _look_again(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            while self._waiting:
                number, place = next(iter(self._waiting.items()))
                if place.waiter.is_gone:
                    del self._waiting[number]
                    continue
                outcome = self._outcome(place)
                if outcome is None:
                    break
                del self._waiting[number]
                place.waiter.called(outcome)
        finally:
            self._look_again()

    def _outcome(self, place: _Place) -> Choice | BalancerError | None:
        """Return what has become of waiting in `place`, if it is over."""
        try:
            choice = self._place(place.waiter.client, self.pool.clock())
        except NoNodeAvailable as exc:
            return exc
        if choice is None and place.until <= self._loop.time():
            return self._busy()
        return choice


def _take(choice: Choice, now: float) -> None:
    """Count a client as its node's from now on: of many who come at once, the next must not go by the same count."""
    choice.node.pace.take(now)
    choice.node.placed += 1
