"""The Socket.IO node.  Its users write `from node import Server; sio = Server()`, and `Emitter` elsewhere.

What they name is loaded when they name it: a worker that only emits needs no web server in memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.emitter import Emitter
    from node.emitter_sync import SyncEmitter
    from node.place import NodeInfo
    from node.server import Server

__all__ = ["Emitter", "NodeInfo", "Server", "SyncEmitter"]

_MODULES = {
    "Emitter": "node.emitter",
    "NodeInfo": "node.place",
    "Server": "node.server",
    "SyncEmitter": "node.emitter_sync",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
