"""The tasks in which events are handled, and whose they are."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from node.peer import Peer
from node.rooms import Client
from node.session import Session

log = logging.getLogger(__name__)

HANDLER_FAILED = "event handler failed"
"""A user's handler raised: its client gets no acknowledgement, and everybody is served on."""

About = tuple[Client, str] | Peer
"""Whose a task is: the client and the event that its handler is for, or the session whose packets it does in turn."""


def facts(client: Client, event: str) -> dict[str, str]:
    """Return what a log line says of an event."""
    return {"event": event, "namespace": client.namespace, "sid": client.sid}


class Handling:
    """Owns these tasks, and keeps them alive."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], About] = {}

    def start(self, work: Coroutine[Any, Any, Any], about: About) -> None:
        """Run `work` as a task.  If it may raise, it is a handler."""
        if sys.version_info >= (3, 12):
            task = asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
        else:
            task = asyncio.Task(work, loop=asyncio.get_running_loop())
        self._running[task] = about
        if task.done():
            self._done(task)
        else:
            task.add_done_callback(self._done)

    def of(self, peer: Peer) -> set[asyncio.Task[Any]]:
        """Return the tasks that run now for a session."""
        return {task for task, about in self._running.items() if not task.done() and _peer_of(about) is peer}

    def busy(self) -> set[Session]:
        """Return the sessions for which a task runs now."""
        return {_peer_of(about).session for task, about in self._running.items() if not task.done()}

    async def ended(self, within_s: float) -> int:
        """Wait until those that run now have ended; return how many still run after `within_s`."""
        running = {task for task in self._running if not task.done()}
        if not running:
            return 0
        _, still = await asyncio.wait(running, timeout=within_s)
        return len(still)

    def _done(self, task: asyncio.Task[Any]) -> None:
        about = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            said = facts(*about) if isinstance(about, tuple) else {"sid": about.session.sid}
            log.error(HANDLER_FAILED, exc_info=error, extra=said)


def _peer_of(about: About) -> Peer:
    if isinstance(about, tuple):
        peer: Peer = about[0].session.client
        return peer
    return about
