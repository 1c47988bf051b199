"""This node's share of what is asked of all: what is done to its own clients, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from node.answers import Waiting
from node.pieces import HEARD, Deed
from node.rooms import Client, NotConnected, rooms_in
from node.routes import Route
from node.wire import as_lists, can_travel

if TYPE_CHECKING:
    from node.server import Server

AT_ONCE = 200
"""Clients in one piece of an answer; between two of them everybody else has a turn."""


class Share:
    """The deeds of `server`.  `handlers` are those of events between servers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.handlers: dict[str, Route] = {}
        self.deeds: dict[str, Deed] = {
            "fetch": self.fetch,
            "join": self.join,
            "leave": self.leave,
            "disconnect": self.disconnect,
            "ask": self.ask,
            "tell": self.tell,
        }

    def _clients(self, target: Any) -> list[Client]:
        """Raises TypeError or ValueError for what is no target."""
        space, rooms, skip, except_rooms = target
        return self._server.manager.directory.recipients(space, rooms, skip, except_rooms or None)

    async def fetch(self, target: Any) -> AsyncIterator[Any]:
        """Describe these clients; as `sockets_in` reads it."""
        for clients in _pieces(self._clients(target)):
            yield tuple(self._described(client) for client in clients)
            await asyncio.sleep(0)

    def _described(self, client: Client) -> tuple[Any, ...]:
        session = client.session.client.session
        data = (session.data or {}).get(client.namespace) or {}
        portable = {key: value for key, value in data.items() if isinstance(key, str) and can_travel(value)}
        rooms, name = tuple(client.rooms or ()), self._server.node_name
        return client.sid, client.namespace, name, rooms, portable, session.remote or "", session.head

    async def join(self, target: Any, rooms: Any) -> AsyncIterator[int]:
        """Let them enter `rooms`."""
        for clients in _pieces(self._clients(target)):
            yield await self._each(clients, rooms, self._server.manager.enter_room)
            await asyncio.sleep(0)

    async def leave(self, target: Any, rooms: Any) -> AsyncIterator[int]:
        """Let them leave `rooms`."""
        for clients in _pieces(self._clients(target)):
            yield await self._each(clients, rooms, self._server.manager.leave_room)
            await asyncio.sleep(0)

    async def _each(self, clients: Iterable[Client], rooms: Any, change: Callable[..., Any]) -> int:
        count = 0
        for client in clients:
            try:
                for room in rooms_in(rooms):
                    await change(client.sid, client.namespace, room)
            except NotConnected:
                continue  # It has gone meanwhile.
            count += 1
        return count

    async def disconnect(self, target: Any) -> AsyncIterator[Any]:
        """Disconnect them; their handlers run beside each other."""
        yield HEARD
        for clients in _pieces(self._clients(target)):
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(self._server.disconnect(client.sid, client.namespace, ignore_queue=True))
            yield len(clients)

    async def ask(self, target: Any, event: Any, arguments: Any, within_s: float | None) -> AsyncIterator[Any]:
        """Emit an event to them, and tell who has acknowledged it, with what; who has not, with nothing."""
        if not isinstance(event, str) or not isinstance(arguments, tuple):
            raise TypeError("no event")
        clients = self._clients(target)
        if not clients:
            return
        waiting = Waiting([client.sid for client in clients])
        self._server.manager.ask(clients, event, tuple(as_lists(arguments)), waiting)
        yield HEARD
        answers = await waiting.answers(within_s)
        for items in _pieces(answers.given.items()):
            # One client that answers with what cannot travel (an integer of 70 bits, say) must not spoil the others.
            yield tuple(
                (sid, isinstance(answer, tuple), answer) if can_travel(answer) else (sid,) for sid, answer in items
            )
        for sids in _pieces(answers.missing):
            yield tuple((sid,) for sid in sids)

    async def tell(self, event: str, arguments: tuple[Any, ...]) -> AsyncIterator[Any]:
        """Let the handler of an event between servers run, and tell what it returns."""
        route = self.handlers.get(event)
        if route is None:
            raise ValueError(f"no handler of {event!r}")
        yield HEARD
        yield await route.call(*as_lists(arguments))


def _pieces(values: Iterable[Any]) -> Iterable[list[Any]]:
    each = iter(values)
    while piece := list(islice(each, AT_ONCE)):
        yield piece
