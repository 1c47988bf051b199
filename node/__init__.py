"""The Socket.IO node.  Its users write `from node import Server; sio = Server()` and nothing else of it."""

from node.server import NodeInfo, Server

__all__ = ["NodeInfo", "Server"]
