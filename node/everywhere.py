"""What can be asked of all nodes, by a server or from outside: clients and servers, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from node.answers import Answers
from node.fate import Fate
from node.operations import Operations, target
from node.outcome import Outcome, Replies, Sockets
from node.rooms import Rooms, rooms_in

ASK_S = 5.0
"""How long nodes may take, unless told otherwise."""


class Everywhere:
    """The methods that a server and an emitter have in common.

    Who is meant by `to` (or `room`), `namespace`, `skip_sid` and `except_rooms` is as in `emit`: nobody named is
    everybody in the namespace.  Asked are the nodes that have such clients now.  What comes back names those that
    did not answer within `timeout` seconds; a node that ended is not waited for.
    """

    @property
    def _operations(self) -> Operations:
        raise NotImplementedError

    # Clients

    async def fetch_sockets(
        self,
        to: Rooms | None = None,
        *,
        room: Rooms | None = None,
        namespace: str | None = None,
        except_rooms: Rooms | None = None,
        timeout: float = ASK_S,
    ) -> Sockets:
        """Return the clients: a list with `missing` and `complete`."""
        return await self._operations.fetch(target(to, room, namespace, None, except_rooms), timeout)

    async def sockets_join(
        self,
        rooms: Rooms,
        to: Rooms | None = None,
        *,
        namespace: str | None = None,
        except_rooms: Rooms | None = None,
        timeout: float = ASK_S,
    ) -> Outcome:
        """Let clients enter `rooms`; return how many did.  While Redis is away those elsewhere will when it is back."""
        whom = target(to, None, namespace, None, except_rooms)
        return await self._operations.change("join", whom, (tuple(rooms_in(rooms)),), timeout)

    async def sockets_leave(
        self,
        rooms: Rooms,
        to: Rooms | None = None,
        *,
        namespace: str | None = None,
        except_rooms: Rooms | None = None,
        timeout: float = ASK_S,
    ) -> Outcome:
        """Let clients leave `rooms`, as `sockets_join`."""
        whom = target(to, None, namespace, None, except_rooms)
        return await self._operations.change("leave", whom, (tuple(rooms_in(rooms)),), timeout)

    async def disconnect_sockets(
        self,
        to: Rooms | None = None,
        *,
        namespace: str | None = None,
        except_rooms: Rooms | None = None,
        timeout: float = ASK_S,
    ) -> Outcome:
        """Disconnect clients; return how many, when their `disconnect` handlers have ended."""
        return await self._operations.change("disconnect", target(to, None, namespace, None, except_rooms), (), timeout)

    async def broadcast_call(
        self,
        event: str,
        data: Any = None,
        to: Rooms | None = None,
        *,
        timeout: float | None = 10,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        except_rooms: Rooms | None = None,
    ) -> Answers:
        """Emit an event to many, and wait until each has acknowledged it, or `timeout` seconds.

        Who disconnects before it answers is among the `missing`, and is not waited for.
        """
        whom = target(to, None, namespace, skip_sid, except_rooms)
        return await self._operations.ask_clients(event, data, whom, timeout)

    # Servers

    async def server_side_emit(self, event: str, *arguments: Any) -> Fate:
        """Let the handlers of all nodes have `event`; not those of the node that emits it.

        Raises TypeError for arguments that cannot travel.
        """
        return self._operations.tell_servers(event, arguments)

    async def server_side_call(self, event: str, *arguments: Any, timeout: float = ASK_S) -> Replies:
        """As `server_side_emit`, and return what each of these handlers returns, by the node's name."""
        return await self._operations.call_servers(event, arguments, timeout)

    async def server_count(self) -> int:
        """Return how many nodes there are, one that asks included."""
        return await self._operations.count_servers()
