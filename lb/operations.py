"""What an operator can ask of the nodes over the admin address: drain, undrain, and what happened lately."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from typing import Any

from aiohttp import web

from cluster.config import MOST_DRAIN_S
from cluster.member import Drain
from cluster.redis_link import REDIS_AWAY, reason_of
from lb.drains import Drains
from lb.events import Events
from lb.pool import Pool

log = logging.getLogger(__name__)

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class _Wrong(Exception):
    """The call cannot be carried out."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class Operations:
    """The handlers."""

    def __init__(self, pool: Pool, drains: Drains, events: Events) -> None:
        self._pool = pool
        self._drains = drains
        self._events = events

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/events", self.events)
        app.router.add_post("/api/nodes/{node}/drain", self.drain)
        app.router.add_post("/api/nodes/{node}/undrain", self.undrain)

    async def events(self, _: web.Request) -> web.Response:
        """Answer with the last events of all workers, the newest first."""
        return _json({"events": [asdict(event) for event in reversed(self._events.latest())]})

    async def drain(self, request: web.Request) -> web.Response:
        """Order a node to drain.  The body may be {"drain_s": seconds}."""
        try:
            name = self._named(request.match_info["node"])
            order = await self._ordered(name, _drain_s(await request.read()))
        except _Wrong as exc:
            return _json({"error": str(exc)}, exc.status)
        log.info("drain ordered", extra={"node": name, "drain_s": order.drain_s})
        return _json({"node": name, **asdict(order), "state": self._state(name)})

    async def undrain(self, request: web.Request) -> web.Response:
        """Take the order back, if there is one."""
        try:
            name = self._named(request.match_info["node"])
            try:
                await self._drains.lift(name)
            except (*REDIS_AWAY, OSError) as exc:
                raise _Wrong(503, f"nothing was changed: {reason_of(exc)}") from None
        except _Wrong as exc:
            return _json({"error": str(exc)}, exc.status)
        log.info("drain taken back", extra={"node": name})
        return _json({"node": name, "state": self._state(name)})

    async def _ordered(self, name: str, drain_s: float | None) -> Drain:
        try:
            return await self._drains.order(name, drain_s)
        except (*REDIS_AWAY, OSError) as exc:
            # All balancers and the node itself must hear of it, or none.
            raise _Wrong(503, f"nothing was ordered: {reason_of(exc)}") from None

    def _named(self, asked: str) -> str:
        """Return the name of the node that is asked for, which may have had another one.  Raises _Wrong."""
        for node in self._pool:
            if asked == node.name or asked in node.former_names:
                return node.name
        if asked in self._pool.drains:
            return asked  # it is gone, and its order need not wait for it
        known = ", ".join(sorted(self._pool.nodes)) or "none"
        raise _Wrong(404, f"no node is called {asked[:80]!r}; there are: {known}")

    def _state(self, name: str) -> str | None:
        node = self._pool.nodes.get(name)
        return None if node is None else node.state


def _drain_s(body: bytes) -> float | None:
    """Return what the body of a call asks for, None if it leaves that to the configuration.  Raises _Wrong."""
    if not body:
        return None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise _Wrong(400, 'the body must be JSON: {"drain_s": seconds}, or empty') from None
    if not isinstance(asked, dict) or set(asked) - {"drain_s"}:
        raise _Wrong(400, 'the body must be {"drain_s": seconds}, or empty')
    seconds = asked.get("drain_s")
    if seconds is None:
        return None
    fits = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not fits or not 0 <= seconds <= MOST_DRAIN_S:
        raise _Wrong(400, f"drain_s must be a number of seconds from 0 to {MOST_DRAIN_S}")
    return float(seconds)


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers=HEADERS)
