"""The workers and nodes of a running stack, and how a new configuration reaches them without an outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cluster.child import Child, ChildState, Spec
from cluster.errors import FlotillaError, StartError, UsageError
from cluster.supervisor import Supervisor
from lb.reports import READY_NODES
from lb.roster import Doors, Roster

log = logging.getLogger(__name__)

READY_WITHIN_S = 30.0
"""How long a start-up or a reload waits for children to serve before it says that they do not."""

SEEN_LOOKS = 100
LOOK_AGAIN_S = 0.05
"""A replaced node may take 5 s until all workers have seen it."""

_SETTLED = (ChildState.READY, ChildState.GIVEN_UP, ChildState.STOPPED)


class NotReady(FlotillaError):
    """A child that a reload started does not serve."""


@dataclass(eq=False)
class Crew:
    """All workers and nodes.  Every one of them is a child of `supervisor`."""

    supervisor: Supervisor
    workers: list[Child] = field(default_factory=list)
    nodes: dict[int, Child] = field(default_factory=dict)
    """By port."""
    _proven: set[str] = field(default_factory=set)
    """The kinds of children of which one has served."""

    @property
    def everyone(self) -> list[Child]:
        return [*self.workers, *self.nodes.values()]

    def start(self, roster: Roster, doors: Doors) -> None:
        """Start all that `roster` asks for and that is not here yet, at the same time."""
        for port in roster.config.local_ports:
            if port not in self.nodes:
                self.nodes[port] = self.supervisor.start(roster.node(port))
        self.workers = self._start_workers(roster, doors)

    async def settled(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until everyone serves or is given up, at most `within_s`."""
        await _settled(self.everyone, within_s)

    def not_ready(self) -> list[str]:
        """Return a line for each child that does not serve."""
        return [_excuse(child) for child in self.everyone if child.state is not ChildState.READY]

    def verdict(self) -> StartError | UsageError | None:
        """Return why there is no use in going on: all nodes, or all workers, were given up and none ever served.

        Later it is different: who served once may come back, and what a reload started has a predecessor.
        """
        for kind, children in (("node", list(self.nodes.values())), ("worker", self.workers)):
            if any(child.was_ready for child in children):
                self._proven.add(kind)
            if kind not in self._proven and children and all(child.state is ChildState.GIVEN_UP for child in children):
                reason = f"{children[0].name}: {children[0].reason}"
                return UsageError(reason) if all(child.is_hopeless for child in children) else StartError(reason)
        return None

    async def replace_workers(self, roster: Roster, doors: Doors) -> Sequence[Child]:
        """Start new workers beside the old ones, which are returned for the caller to stop once all new ones serve.

        Raises NotReady when one does not; the old ones are then untouched.
        """
        fresh = self._start_workers(roster, doors)
        try:
            await _all_ready(fresh)
        except BaseException:
            await self.supervisor.stop(*fresh)
            raise
        old, self.workers = self.workers, fresh
        return old

    async def add_nodes(self, ports: Iterable[int], roster: Roster) -> None:
        """Start nodes on `ports`; one that does not serve is kept on trial by its restart policy, as at start-up."""
        fresh = []
        for port in ports:
            self.nodes[port] = self.supervisor.start(roster.node(port))
            fresh.append(self.nodes[port])
        await _settled(fresh, READY_WITHIN_S)

    async def remove_nodes(self, ports: Iterable[int]) -> None:
        """Stop the nodes on `ports` in order, all at the same time."""
        await self.supervisor.stop(*(self.nodes.pop(port) for port in ports))

    async def roll_nodes(self, ports: Iterable[int], roster: Roster) -> None:
        """Replace the nodes on `ports` one at a time, each ready before the next goes.

        The first one that does not serve gets its old configuration back and ends the roll: raises NotReady.
        """
        for port in ports:
            before = self.nodes[port].spec
            try:
                await self._swap(port, roster.node(port))
            except NotReady:
                await self._swap(port, before)
                raise

    def adopt(self, roster: Roster, doors: Doors) -> None:
        """Let those that run as they are begin their next life with `roster`."""
        for index, child in enumerate(self.workers):
            child.spec = roster.worker(index, doors)
        for port, child in self.nodes.items():
            child.spec = roster.node(port)
        self.supervisor.publish()

    async def _swap(self, port: int, spec: Spec) -> None:
        await self.supervisor.stop(self.nodes[port])
        self.nodes[port] = self.supervisor.start(spec)
        await _all_ready([self.nodes[port]])
        await self._seen_by_workers(self.nodes[port])
        log.info("node replaced", extra={"node": spec.name})

    async def _seen_by_workers(self, node: Child) -> None:
        """Wait until every worker sends clients to `node`: until then the next one must not go.

        A worker that does not say so in time is not waited for: it may not be able to write its report.
        """
        for _ in range(SEEN_LOOKS):
            if all(self._is_seen(node, worker) for worker in self.workers):
                return
            # Reports are files: nobody tells us that one was replaced.
            await asyncio.sleep(LOOK_AGAIN_S)
        log.warning("node not seen by all workers", extra={"node": node.name})

    def _is_seen(self, node: Child, worker: Child) -> bool:
        if worker.state is not ChildState.READY:
            return True  # It gets its picture before it accepts anybody.
        report = self.supervisor.run_dir.report(f"{worker.name}-{worker.pid}") or {}
        ready = report.get(READY_NODES, {})
        return node.name in ready and ready[node.name] in (node.pid, None)

    def _start_workers(self, roster: Roster, doors: Doors) -> list[Child]:
        return [self.supervisor.start(roster.worker(index, doors)) for index in range(roster.worker_count)]


async def _settled(children: Iterable[Child], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            for child in children:
                await child.until(*_SETTLED)
    except TimeoutError:
        # The caller looks at their states.
        return


async def _all_ready(children: Sequence[Child]) -> None:
    await _settled(children, READY_WITHIN_S)
    for child in children:
        if child.state is not ChildState.READY:
            raise NotReady(_excuse(child))


def _excuse(child: Child) -> str:
    reason = f": {child.reason}" if child.reason else ""
    return f"{child.name} ({child.state.replace('_', ' ')}{reason})"
