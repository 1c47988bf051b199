"""What a server asks of all nodes: the methods of `Server` that reach clients and servers wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from node.answers import Answers
from node.asking import Asker
from node.fate import Fate
from node.operations import Operations, target
from node.outcome import Outcome, Replies, Sockets
from node.place import NodeInfo
from node.rooms import Rooms, rooms_in
from node.routes import Route
from node.share import Share

if TYPE_CHECKING:
    from node.clients import ClientManager

Handler = TypeVar("Handler", bound=Callable[..., Any])

ASK_S = 5.0
"""How long nodes may take, unless told otherwise."""


class Everywhere:
    """Without other nodes (`redis: none`, or a client manager of the user's own) it works on this process alone.

    Who is meant by `to` (or `room`), `namespace`, `skip_sid` and `except_rooms` is as in `emit`: nobody named is
    everybody in the namespace.  Asked are the nodes that have such clients now.  What comes back names those that
    did not answer within `timeout` seconds; a node that ended is not waited for.
    """

    manager: ClientManager
    _node: NodeInfo | None
    _share: Share | None = None

    @property
    def share(self) -> Share:
        """What other nodes can ask of this one.  Internal."""
        if self._share is None:
            self._share = Share(self)  # type: ignore[arg-type]
        return self._share

    @property
    def node_name(self) -> str:
        """The node's name, or "" outside `python -m node`."""
        return "" if self._node is None else self._node.name

    @property
    def _operations(self) -> Operations:
        asker: Asker | None = getattr(self.manager, "asker", None)
        spread = getattr(self.manager, "channels_to", _nowhere)
        return Operations(self.share.deeds, asker, spread)

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

    @overload
    def on_server_side(self, event: str, handler: Handler) -> Handler: ...

    @overload
    def on_server_side(self, event: str, handler: None = None) -> Callable[[Handler], Handler]: ...

    def on_server_side(self, event: str, handler: Any = None) -> Any:
        """Let `handler` have `event` when another node emits it with `server_side_emit` or `server_side_call`.

        It gets the event's arguments.  Without `handler`, return a decorator.
        """
        if handler is None:
            return lambda given: self.on_server_side(event, given)
        self.share.handlers[event] = Route(handler)
        return handler

    async def server_side_emit(self, event: str, *arguments: Any) -> Fate:
        """Let the handlers of all nodes but this one have `event`.

        Raises TypeError for arguments that cannot travel.
        """
        return self._operations.tell_servers(event, arguments)

    async def server_side_call(self, event: str, *arguments: Any, timeout: float = ASK_S) -> Replies:
        """As `server_side_emit`, and return what each of these handlers returns, by the node's name."""
        return await self._operations.call_servers(event, arguments, timeout)

    async def server_count(self) -> int:
        """Return how many nodes there are, this one included."""
        return await self._operations.count_servers()


def _nowhere(_: str, __: Rooms | None) -> tuple[()]:
    return ()
