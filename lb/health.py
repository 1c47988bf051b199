"""When a node is well enough to get clients: a counter of successes and failures, and the loop that probes.

`Watch` decides, without I/O; `Health` probes all nodes at their times and tells the pool.  What the data path finds out
by itself (a refused connection) it tells the pool directly; the watch then sees to it that the node is probed soon.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster import config
from cluster.member import Signal, State
from lb.pool import DRAINED, UNDRAINED, Node, Pool
from lb.probe import Found, probe

log = logging.getLogger(__name__)

SOON_S = 0.1
"""How soon, at most, a node is probed that fell; doubled with each failure up to the interval."""

SPREAD = 0.1
"""Share of each delay by which probes are spread, so that those of many nodes and balancers do not align."""

Probe = Callable[[str, int, config.Health], Awaitable[Found]]


@dataclass
class Watch:
    """The probes of one node: when the next is due, and what results come to.  Pure: time is an argument.

    All times are monotonic seconds.  A node that `joined` is probed at once.
    """

    settings: config.Health
    joined: float
    rng: Callable[[], float] = random.random
    well: int = 0
    """Successes in a row."""
    unwell: int = 0
    """Failures in a row."""
    cut_off: int = 0
    """How often in a row it said that it does not reach Redis, which we did."""

    def __post_init__(self) -> None:
        self.due = self.joined
        self._soon_s = SOON_S

    def hurry(self, now: float) -> None:
        """Count anew and probe soon: somebody else found the node dead, or it has a new process."""
        self.well = self.unwell = 0
        self._soon_s = SOON_S
        self.due = min(self.due, now + self.rng() * SOON_S)

    def passed(self, began: float) -> Signal | None:
        """Take a success of the probe that `began` then; return what it comes to, if anything."""
        self.well, self.unwell, self._soon_s = self.well + 1, 0, SOON_S
        self._plan(began, self.settings.interval_s)
        return Signal.RISE if self.well >= self.settings.rise else None

    def failed(self, began: float, state: State) -> Signal | None:
        """Take a failure of the probe that `began` then, of a node in `state`."""
        self.well, self.unwell = 0, self.unwell + 1
        if state in (State.JOINING, State.DOWN):
            # Nobody is sent there, so looking often at first costs nothing, and each moment gained is one of service.
            self._soon_s = min(2 * self._soon_s, self.settings.interval_s)
            self._plan(began, self._soon_s)
        else:
            self._plan(began, self.settings.interval_s)
        # Those quick looks must not make a node that only takes its time to start one that fell.
        is_starting = state is State.JOINING and began - self.joined < self.settings.fall * self.settings.interval_s
        return Signal.FALL if self.unwell >= self.settings.fall and not is_starting else None

    def skipped(self, began: float) -> None:
        """Take a result that says neither: the node is leaving and serves those that it has, or could not be asked."""
        self.well = self.unwell = 0
        self._plan(began, self.settings.interval_s)

    def _plan(self, began: float, delay_s: float) -> None:
        self.due = began + delay_s * (1 - SPREAD + 2 * SPREAD * self.rng())


class Health:
    """Probes every node of `pool` as `settings` say, and signals the pool what comes of it."""

    def __init__(
        self,
        pool: Pool,
        settings: config.Health,
        probe: Probe = probe,
        redis_works: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool = pool
        self._redis_works = redis_works
        self._settings = settings
        self._probe = probe
        self._watches: dict[Node, Watch] = {}
        self._in_flight: set[Node] = set()
        self._wake = asyncio.Event()
        self._namesakes: set[tuple[str, str]] = set()
        self._starved = False

    async def run(self) -> None:
        """Probe until cancelled."""
        self._pool.watchers.append(self._on_node)
        try:
            async with asyncio.TaskGroup() as tasks:
                for node in self._pool:
                    self._on_node(node)
                while True:
                    self._wake.clear()
                    self._start_due(tasks)
                    await self._until_next()
        finally:
            self._pool.watchers.remove(self._on_node)

    def _on_node(self, node: Node) -> None:
        """Hear from the pool that `node` joined, changed or left."""
        now = self._pool.clock()
        if node not in self._pool:
            self._watches.pop(node, None)
        elif (watch := self._watches.get(node)) is None:
            self._watches[node] = Watch(self._settings, now)
        elif node.state in (State.JOINING, State.DOWN):
            watch.hurry(now)
        self._wake.set()

    def _start_due(self, tasks: asyncio.TaskGroup) -> None:
        now = self._pool.clock()
        for node in list(self._watches):
            self._readmit(node, now)
        for node, watch in self._watches.items():
            if watch.due <= now and node not in self._in_flight:
                self._in_flight.add(node)
                tasks.create_task(self._check(node, watch))

    async def _until_next(self) -> None:
        due = [watch.due for node, watch in self._watches.items() if node not in self._in_flight]
        due += [node.conduct.until for node in self._watches if _serves_time(node)]
        try:
            async with asyncio.timeout(max(0.0, min(due) - self._pool.clock()) if due else None):
                await self._wake.wait()
        except TimeoutError:
            # The next probe is due; nothing happened meanwhile.
            return

    async def _check(self, node: Node, watch: Watch) -> None:
        began, since = self._pool.clock(), node.since
        try:
            found = await self._probe(node.host, node.port, self._settings)
        finally:
            self._in_flight.discard(node)
            self._wake.set()
        # What changed meanwhile is newer than this answer, which may be that of a process that is no more.
        if node in self._pool and node.since == since:
            self._judge(node, watch, found, began)

    def _judge(self, node: Node, watch: Watch, found: Found, began: float) -> None:
        if found.unknown:
            if not self._starved:
                log.error("probes suspended", extra={"reason": found.fault})
            self._starved = True
            watch.skipped(began)
            return
        self._starved = False
        answered, node.answers = node.answers, found.answers or found.is_well
        node.leaving = found.leaving
        self._conclude(node, watch, found, began)
        if node.answers is not answered:
            # Not before: one that comes back well is no sick node that answers, not even for a moment.
            self._pool.muster()

    def _conclude(self, node: Node, watch: Watch, found: Found, began: float) -> None:
        # Who drains by order refuses newcomers, us too: that it answers is all that can be asked of it.
        if found.leaving or (found.answers and node.drain is not None):
            watch.skipped(began)
            if node.state is State.DOWN and node.drain is not None:
                # It obeys, and lives: what it still has, or had when we lost sight of it, is served.
                self._pool.signal(node, Signal.RISE, "answers its probes")
            self._pool.signal(node, Signal.DRAIN, found.fault)
            return
        if found.is_well:
            self._judge_well(node, watch, found, began)
            return
        if node.state in (State.JOINING, State.DOWN):
            node.reason = found.fault
        if watch.failed(began, node.state) is Signal.FALL:
            self._pool.signal(node, Signal.FALL, found.fault)

    def _judge_well(self, node: Node, watch: Watch, found: Found, began: float) -> None:
        self._learn_name(node, found)
        if node.record is None:
            node.placed = 0  # who has not landed by now never will
        self._judge_link(node, watch, degraded=found.degraded)
        if watch.passed(began) is not Signal.RISE or node.said in (State.JOINING, State.DRAINING):
            return
        if node.state is State.DOWN and (wait_s := node.conduct.until - began) > 0:
            node.reason = f"answers its probes, but {node.conduct.why}: {math.ceil(wait_s)} s to go"
            return
        if node.state is State.DRAINING and node.drain is None:
            if node.reason == DRAINED:
                # The order was taken back before it knew.
                self._pool.signal(node, Signal.UNDRAIN, UNDRAINED)
            else:
                # A probe heard that it leaves, and its record does not say so: this is the process that came after it.
                self._pool.signal(node, Signal.GONE, "replaced by a new process")
        self._pool.signal(node, Signal.RISE, "answers its probes")

    def _judge_link(self, node: Node, watch: Watch, *, degraded: bool) -> None:
        """See whether a node that does not reach Redis is alone with that.

        If we do not hear ourselves either, or most nodes are as it is, Redis is to blame, and everybody serves on.
        """
        node.degraded = degraded
        watch.cut_off = watch.cut_off + 1 if degraded else 0
        if not self._redis_works():
            watch.cut_off = 0
        serving = [other for other in self._pool if other.is_reachable]
        alone = 2 * sum(other.degraded for other in serving) <= len(serving)
        if node.cut_off and not watch.cut_off:
            node.cut_off = False
            self._readmit(node, self._pool.clock())
        elif alone and watch.cut_off >= self._settings.fall and not node.cut_off:
            node.cut_off = True
            self._pool.signal(node, Signal.EJECT, "it does not reach Redis, which this balancer and other nodes do")

    def _readmit(self, node: Node, now: float) -> None:
        """Let a node back in whose time is over."""
        if _serves_time(node) and node.conduct.until <= now:
            self._pool.signal(node, Signal.READMIT, "its time out is over")

    def _learn_name(self, node: Node, found: Found) -> None:
        """Call a configured node as its sids do, so that they route, unless it has told its name itself."""
        if node.record is not None or not found.slot or found.slot == node.name:
            return
        before = node.name
        if self._pool.rename(node, found.slot):
            log.info("node named", extra={"node": node.name, "address": before})
            return
        other = self._pool.nodes[found.slot]
        if found.address == (other.host, other.port):
            self._pool.same(node, other)
        elif (node.name, other.name) not in self._namesakes:
            self._namesakes.add((node.name, other.name))
            log.warning(
                "two nodes have one name, so clients of one may be sent to the other; give each its own --name",
                extra={"node": other.name, "address": f"{other.host}:{other.port}", "other": node.name},
            )


def _serves_time(node: Node) -> bool:
    """Whether `node` is out for a certain time."""
    return node.state is State.EJECTED and not node.cut_off
