"""A user's own `client_manager`: python-socketio's Redis manager, say, or a class derived from one."""

from __future__ import annotations

from typing import Any, cast

from socketio.async_manager import AsyncManager

from cluster.errors import UsageError
from node.clients import ClientManager
from node.rooms import Directory


def with_our_rooms(manager: Any) -> ClientManager:
    """Return `manager`, whose inherited methods are ClientManager's from now on.

    Raises UsageError if it is no socketio.AsyncManager, or has clients already.
    """
    if isinstance(manager, ClientManager):
        return manager
    if not isinstance(manager, AsyncManager):
        raise UsageError(f"client_manager must be a socketio.AsyncManager, not a {type(manager).__name__}")
    if manager.rooms:
        raise UsageError("this client_manager has clients already: give each Server its own")
    kind = type(manager)
    bases = (ClientManager,) if kind is AsyncManager else (kind, ClientManager)
    manager.__class__ = type(kind.__name__, bases, {"__module__": kind.__module__})
    ours = cast(ClientManager, manager)
    ours.directory = Directory()
    return ours
