"""Which handler gets an event: python-socketio's rules, applied once for each event and not for each message.

How a handler wants to be called (awaited or not, with how many arguments) is read from its signature, once.  Nothing is
tried out: a TypeError that a handler raises is that handler's own.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from socketio import AsyncNamespace

ANY = "*"
"""Registered for all events, or all namespaces, that have no handler of their own."""

HAPPENS = frozenset({"connect", "disconnect"})
"""Events that catch-all handlers do not get."""

MOST_KNOWN = 4096
MOST_KNOWN_CHARS = 100
"""Of routes that are kept, and of their events' names: clients make up names."""


class Route:
    """A handler, and how it is called: with `prefix`, then the sid, then the event's own arguments."""

    __slots__ = ("fewest", "handler", "is_async", "most", "prefix")

    def __init__(self, handler: Callable[..., Any], prefix: tuple[str, ...] = ()) -> None:
        self.handler = handler
        self.prefix = prefix
        self.is_async = inspect.iscoroutinefunction(handler)
        self.fewest, self.most = bounds(handler)

    def fits(self, count: int) -> bool:
        """Whether the handler can be called with `count` arguments."""
        return self.fewest <= count <= self.most

    async def call(self, *arguments: Any) -> Any:
        """Call the handler with as many of these as it takes: what was added to an event later is left out."""
        every = (*self.prefix, *arguments)
        while not self.fits(len(every)) and len(every) > self.fewest:
            every = every[:-1]
        return await awaited(self.handler(*every))


class Cancelled(Exception):
    """What a handler waited for was cancelled, and it let that through."""


async def awaited(result: Any) -> Any:
    """Return what a handler returned, when it is there: a plain function may return something to wait for.

    Raises Cancelled when the handler ends as cancelled and this task is not: what comes next must still be done.
    """
    if not inspect.isawaitable(result):
        return result
    try:
        return await result
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Cancelled("the handler was cancelled") from None


def bounds(function: Callable[..., Any]) -> tuple[int, float]:
    """Return how many positional arguments `function` takes, at least and at most."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 0, math.inf  # It is not written in Python, and does not say.
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    fewest = sum(each.default is each.empty for each in positional)
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    return fewest, math.inf if any_number else len(positional)


def _ignore(*_: Any) -> None:
    """Handle an event for which a class-based namespace has no method: it is acknowledged, as in python-socketio."""


class Routes:
    """Finds routes among what was registered: `handlers` and `namespaces` are python-socketio's own dictionaries."""

    def __init__(
        self, handlers: Mapping[str, Mapping[str, Callable[..., Any]]], namespaces: Mapping[str, AsyncNamespace]
    ) -> None:
        self._handlers = handlers
        self._namespaces = namespaces
        self._known: dict[tuple[str, str], Route] = {}

    def forget(self) -> None:
        """Something was registered."""
        self._known.clear()

    def find(self, namespace: str, event: str) -> Route | None:
        """Return the route, or None if nobody handles the event."""
        name = (namespace, event)
        route = self._known.get(name)
        if route is None:
            route = self._resolved(namespace, event)
            if route is not None and len(event) <= MOST_KNOWN_CHARS and len(self._known) < MOST_KNOWN:
                self._known[name] = route
        return route

    def _resolved(self, namespace: str, event: str) -> Route | None:
        for name, before in ((namespace, ()), (ANY, (namespace,))):
            handlers = self._handlers.get(name, {})
            # A client may send an event that is called "*": it is one like any other.
            if event in handlers and event != ANY:
                return Route(handlers[event], before)
            if ANY in handlers and event not in HAPPENS:
                return Route(handlers[ANY], (event, *before))
        for name, before in ((namespace, ()), (ANY, (namespace,))):
            if name in self._namespaces:
                return _route_to(self._namespaces[name], event, before)
        return None


def _route_to(namespace: AsyncNamespace, event: str, before: tuple[str, ...]) -> Route:
    if type(namespace).trigger_event is not AsyncNamespace.trigger_event:
        # It has dispatching rules of its own.
        return Route(partial(namespace.trigger_event, event), before)
    return Route(getattr(namespace, f"on_{event}", None) or _ignore, before)
