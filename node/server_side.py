"""What a server has to do with the others: what it asks of them, and what they can ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from node.asking import Asker
from node.everywhere import Everywhere
from node.operations import Operations
from node.place import NodeInfo
from node.rooms import Rooms
from node.routes import Route
from node.share import Share

if TYPE_CHECKING:
    from node.clients import ClientManager

Handler = TypeVar("Handler", bound=Callable[..., Any])


class ServerSide(Everywhere):
    """Without other nodes (`redis: none`, or a client manager of the user's own) it works on this process alone."""

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


def _nowhere(_: str, __: Rooms | None) -> tuple[()]:
    return ()
