"""The children of one supervisor: started, kept running, stopped, and reported.

A supervisor holds the writing end of the lifeline for as long as it lives; each child that has its reading end notices
when it closes, however the supervisor died.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cluster.birth import birth
from cluster.child import Child, ChildState, End, Spec
from cluster.output import Output
from cluster.process import Survivor
from cluster.restart import RestartLimits, RestartPolicy
from cluster.rundir import SUPERVISOR, RunDir

log = logging.getLogger(__name__)


@contextmanager
def lifeline() -> Iterator[int]:
    """Hold a lifeline and give its reading end; the other end closes with the block, or with this process."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


@dataclass(eq=False)
class Supervisor:
    """Runs children as tasks of `tasks`; their states stand in the report `supervisor` of the run directory."""

    tasks: asyncio.TaskGroup
    run_dir: RunDir
    output: Output
    lifeline_fd: int
    limits: RestartLimits
    on_end: Callable[[Child, End], Awaitable[None]] | None = None
    """Hears how a process of a child ended, before the next one starts."""
    on_change: Callable[[Child], None] = lambda _: None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the report says of the stack."""
    children: list[Child] = field(default_factory=list)

    def start(self, spec: Spec, survivor: Survivor | None = None) -> Child:
        """Start a child, or take over its `survivor`, and keep it running; wait for it with `Child.until`."""
        child = Child(
            spec=spec,
            policy=RestartPolicy(self.limits),
            output=self.output,
            lifeline_fd=self.lifeline_fd,
            on_change=self._changed,
            on_end=self.on_end,
            survivor=survivor,
            restarts=survivor.restarts if survivor else 0,
        )
        self.children.append(child)
        self.output.expect(spec.name)
        self.tasks.create_task(child.run(), name=spec.name)
        return child

    async def stop(self, *children: Child) -> None:
        """Stop these children in order, all at the same time, and forget them."""
        for child in children:
            child.ask_to_stop()
        for child in children:
            await child.until(ChildState.STOPPED, ChildState.GIVEN_UP)
            # Somebody else may have asked the same, for a worker that drains after a reload.
            if child in self.children:
                self.children.remove(child)
        if children:
            # Else there may be another supervisor's report, with children that we have not taken over.
            self.publish()

    def hurry(self) -> None:
        """End all children at once."""
        for child in self.children:
            child.hurry()

    def apply(self, limits: RestartLimits) -> None:
        """Use other limits for restarts from now on."""
        self.limits = limits
        for child in self.children:
            child.policy.limits = limits

    def publish(self) -> None:
        """Report the state of all children."""
        report = {
            "pid": os.getpid(),
            "birth": birth(os.getpid()),
            **self.facts,
            "children": [self._shown(child) for child in self.children],
        }
        try:
            self.run_dir.publish(SUPERVISOR, report)
        except OSError as exc:
            # A full disk must not end what runs; the report is only looked at.
            log.warning("report not written", extra={"reason": str(exc)})

    def _changed(self, child: Child) -> None:
        self.publish()
        self.on_change(child)

    def _shown(self, child: Child) -> dict[str, Any]:
        return {
            "name": child.name,
            "pid": child.pid,
            "birth": None if child.process is None else child.process.born,
            "state": child.state,
            "restarts": child.restarts,
            "reason": child.reason,
            "adopted": child.is_adopted,
            "outlives": child.spec.outlive_s > 0,
            "stop_within_s": child.spec.stop_within_s,
            **child.spec.facts,
        }
