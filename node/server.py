"""`Server`: what users of a node see.  A `socketio.AsyncServer` that `python -m node` can run as a member of a cluster.

It is made when the user's module is imported, before there is a configuration or an event loop.  The node binds it
later: only then does it know its name, its cluster and the other nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import socketio
from aiohttp import web

from cluster.errors import UsageError
from node.engine import Engine
from node.packet import BadPacket, CheckedPacket
from node.presence import Presence

log = logging.getLogger(__name__)

SOCKETIO_PATH = "socket.io"

Handler = TypeVar("Handler", bound=Callable[..., Any])


class NotInANode(UsageError):
    """The application asks where it runs, and it does not run in a node."""


@dataclass(frozen=True)
class NodeInfo:
    """Where an application runs: `name` is unique in its `cluster`; `host` and `port` are what the node announces."""

    name: str
    cluster: str
    host: str
    port: int
    incarnation: str
    """Differs for each process that ever had this name."""


@dataclass(frozen=True)
class EngineLimits:
    """The configuration's values for options that the user did not give to `Server`."""

    ping_interval: float
    ping_timeout: float
    max_http_buffer_size: int


class Server(socketio.AsyncServer):  # type: ignore[misc]
    """A Socket.IO server for a node: events, rooms, sessions, acks and `emit` as python-socketio documents them.

    Takes the keyword arguments of `socketio.AsyncServer`.  Those that the configuration has too (`ping_interval`,
    `ping_timeout`, `max_http_buffer_size`) win over it, and so does a `client_manager`.

    `web` is the aiohttp application that serves beside it: add routes, middlewares and start-up signals to it.  An
    application that you `attach` to takes its place.

    Without `python -m node` it behaves like a `socketio.AsyncServer`, and `node` and `presence` raise NotInANode.
    """

    def __init__(self, client_manager: Any = None, logger: Any = False, **options: Any) -> None:
        if options.setdefault("async_mode", "aiohttp") != "aiohttp":
            raise UsageError(f"node.Server serves through aiohttp: leave async_mode={options['async_mode']!r} out")
        self._given = frozenset(options)
        self._brings_manager = client_manager is not None
        self._attached = False
        self._handling: set[asyncio.Future[None]] = set()
        self._node: NodeInfo | None = None
        self._presence: Presence | None = None
        self.web = web.Application()
        if options.get("serializer", "default") == "default":
            options["serializer"] = CheckedPacket
        options.setdefault("engineio_logger", logger)
        options["engineio_logger"] = _logger("engineio.server", options["engineio_logger"])
        super().__init__(client_manager=client_manager, logger=_logger("socketio.server", logger), **options)

    eio: Engine

    def attach(self, app: web.Application, socketio_path: str = SOCKETIO_PATH) -> None:
        """Serve Socket.IO in `app` under `socketio_path`; `app` becomes `web`."""
        if app is not self.web and len(self.web.router.routes()):
            raise UsageError(
                "sio.web has routes already: attach() to it, or add its routes to the application you attach to"
            )
        super().attach(app, socketio_path)
        self.web = app
        self._attached = True

    @property
    def node(self) -> NodeInfo:
        """Where this server runs.  Raises NotInANode outside `python -m node`."""
        if self._node is None:
            raise NotInANode("sio.node: this server does not run in a node; start it with `python -m node`")
        return self._node

    @property
    def presence(self) -> Presence:
        """Who is online on all nodes.  Raises NotInANode outside `python -m node`."""
        if self._presence is None:
            raise NotInANode("sio.presence: this server does not run in a node; start it with `python -m node`")
        return self._presence

    def bind(self, node: NodeInfo, tag: str, presence: Presence, limits: EngineLimits, manager: Any) -> None:
        """Make this server a member of a cluster.  Internal: `python -m node` calls it once, before it listens.

        `manager` is the client manager that reaches the other nodes, or None if there are none.
        """
        self._node, self._presence, self.eio.tag = node, presence, tag
        if "ping_interval" not in self._given:
            self.eio.ping_interval, self.eio.ping_interval_grace_period = limits.ping_interval, 0
        for option in ("ping_timeout", "max_http_buffer_size"):
            if option not in self._given:
                setattr(self.eio, option, getattr(limits, option))
        if manager is not None and not self._brings_manager:
            self.manager = manager
            manager.set_server(self)
        if not self._attached:
            self.attach(self.web)

    @property
    def brings_manager(self) -> bool:
        """The user gave a client manager of their own, so that the cluster's is not used."""
        return self._brings_manager

    async def handled(self, within_s: float) -> int:
        """Wait until the event handlers that run now have ended; return how many still run after `within_s`."""
        if not self._handling:
            return 0
        _, still = await asyncio.wait(set(self._handling), timeout=within_s)
        return len(still)

    @overload
    def event(self, handler: Handler, /) -> Handler: ...

    @overload
    def event(self, *, namespace: str | None = None) -> Callable[[Handler], Handler]: ...

    def event(self, *args: Any, **kwargs: Any) -> Any:
        """As python-socketio's `event`, with types: a handler keeps its own."""
        return super().event(*args, **kwargs)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        try:
            await super()._handle_eio_message(eio_sid, data)
        except BadPacket as exc:
            log.info("client dropped: not Socket.IO", extra={"sid": eio_sid, "reason": str(exc)})
            await self.eio.drop(eio_sid)

    async def _handle_event_internal(self, server: Any, sid: str, *event: Any) -> None:
        # Not the task: without `async_handlers` that one serves the whole connection.
        done = asyncio.get_running_loop().create_future()
        self._handling.add(done)
        try:
            await super()._handle_event_internal(server, sid, *event)
        except Exception:
            # The user's handler failed; its client gets no ack, and everybody else is served on.
            _, data, namespace, _ = event
            log.exception("event handler failed", extra={"event": data[0], "namespace": namespace, "sid": sid})
        finally:
            self._handling.discard(done)
            done.set_result(None)

    def _engineio_server_class(self) -> type[Engine]:
        return Engine


def _logger(name: str, given: Any) -> Any:
    """Return the logger for python-socketio: left alone it would add a handler of its own beside ours."""
    if not isinstance(given, bool):
        return given
    logger = logging.getLogger(name)
    if logger.level == logging.NOTSET:
        # At INFO it writes a line for each packet.
        logger.setLevel(logging.INFO if given else logging.WARNING)
    return logger
