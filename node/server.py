"""`Server`: what users of a node see.  A `socketio.AsyncServer` that `python -m node` can run as a member of a cluster.

It is made when the user's module is imported, before there is a configuration or an event loop.  The node binds it
later: only then does it know its name, its cluster and the other nodes.

The interface is python-socketio's; what is behind it is ours (docs/engine.md says which part is what).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

import socketio
from aiohttp import web

from cluster.errors import UsageError
from node.admin_ui import Instrumentation
from node.answers import value_of
from node.choices import Choices
from node.clients import ClientManager
from node.codec import MAIN
from node.dispatch import Dispatcher
from node.engine import Engine
from node.environ import Environ
from node.environs import Environs
from node.fate import Fate
from node.formats import codec_for
from node.loggers import logger_for
from node.observer import Observer
from node.place import Bound, EngineLimits, NodeInfo, NotInANode
from node.presence import Presence
from node.registration import Registration
from node.rooms import Rooms, target_of
from node.routes import Routes
from node.server_side import ServerSide
from node.session import SERVER_DISCONNECT, Session
from node.state import State
from node.users_manager import with_our_rooms

__all__ = ["EngineLimits", "NodeInfo", "NotInANode", "Server"]

SOCKETIO_PATH = "socket.io"


class Server(ServerSide, Registration):
    """A Socket.IO server for a node: events, rooms, sessions, acks and `emit` as python-socketio documents them.

    Takes the keyword arguments of `socketio.AsyncServer`, and some of its own:

    * `ordered`: the next event of a client begins when the handler of the one before has ended;
    * `connect_timeout`: seconds in which a client must connect to a namespace;
    * `slow_consumer_bytes`: what may wait for a client that does not read, before it is closed;
    * `compression`: whether WebSocket messages are compressed for clients that offer it.

    What is given wins over what the configuration says of the same, and so does a `client_manager`.

    `web` is the aiohttp application that serves beside it: add routes, middlewares and start-up signals to it.  An
    application that you `attach` to takes its place.

    Without `python -m node` it behaves like a `socketio.AsyncServer`; `node`, `presence` and `state` raise NotInANode.
    """

    eio: Engine
    manager: ClientManager
    manager_initialized: bool
    node = Bound[NodeInfo]()
    """Where this server runs."""
    presence = Bound[Presence]()
    """Who is online on all nodes."""
    state = Bound[State]()
    """State that all nodes share."""
    observer: Observer | None = None
    """Gets to know all that happens; None costs nothing."""

    def __init__(
        self,
        client_manager: Any = None,
        logger: Any = False,
        *,
        ordered: bool | None = None,
        connect_timeout: float | None = None,
        **options: Any,
    ) -> None:
        if options.setdefault("async_mode", "aiohttp") != "aiohttp":
            raise UsageError(f"node.Server serves through aiohttp: leave async_mode={options['async_mode']!r} out")
        self._choices = Choices({**options, "ordered": ordered, "connect_timeout": connect_timeout})
        self._brings_manager = client_manager is not None
        self._attached = False
        self._node: NodeInfo | None = None
        self._presence: Presence | None = None
        self._state: State | None = None
        self.web = web.Application()
        self.codec = codec_for(options.get("serializer", "default"), options.get("json"))
        options.setdefault("engineio_logger", logger)
        options["engineio_logger"] = logger_for("engineio.server", options["engineio_logger"])
        manager = ClientManager() if client_manager is None else with_our_rooms(client_manager)
        super().__init__(client_manager=manager, logger=logger_for("socketio.server", logger), **options)
        self.is_chatty = self.logger.isEnabledFor(logging.INFO)
        self.environ = Environs(self.eio)
        self._routes = Routes(self.handlers, self.namespace_handlers)
        self._dispatcher = self.eio.handler = Dispatcher(self, self.codec, self._routes)
        self._choices.apply(self.eio, self._dispatcher)

    # In a node

    def attach(self, app: web.Application, socketio_path: str = SOCKETIO_PATH) -> None:
        """Serve Socket.IO in `app` under `socketio_path`; `app` becomes `web`."""
        if app is not self.web and len(self.web.router.routes()):
            raise UsageError(
                "sio.web has routes already: attach() to it, or add its routes to the application you attach to"
            )
        super().attach(app, socketio_path)
        self.web = app
        self._attached = True

    def take_user(self, sid: str) -> Any:
        """A client is gone, or moves to another process: its user leaves with it.  Internal: return what goes along."""
        return None if self._presence is None else self._presence.take(sid)

    def give_user(self, sid: str, taken: Any) -> None:
        """Let a client that moved here be who it was.  Internal."""
        if self._presence is not None and taken is not None:
            self._presence.give(sid, taken)

    def bind(
        self,
        node: NodeInfo,
        tag: str,
        presence: Presence,
        state: State,
        limits: EngineLimits,
        manager: Any,
    ) -> None:
        """Make this server a member of a cluster.  Internal: `python -m node` calls it once, before it listens.

        `manager` is the client manager that reaches the other nodes, or None if there are none.
        """
        self._node, self._presence, self._state, self.eio.tag = node, presence, state, tag
        self._choices.apply(self.eio, self._dispatcher, limits)
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
        return await self._dispatcher.handling.ended(within_s)

    def start_manager(self) -> None:
        """Let the client manager begin, once: with the first client, as python-socketio does."""
        if not self.manager_initialized:
            self.manager_initialized = True
            self.manager.initialize()

    # Messages

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Rooms | None = None,
        room: Rooms | None = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        callback: Callable[..., Any] | None = None,
        ignore_queue: bool = False,
        *,
        volatile: bool = False,
        except_rooms: Rooms | None = None,
    ) -> Fate:
        """Emit an event, as python-socketio's `emit` does.

        Clients in a room of `except_rooms` do not get it.  With `volatile` neither does a client that reads so slowly
        that too much waits for it already; without, such a client is disconnected.

        Returns what became of it on the way to other nodes: `(await sio.emit(…)).delivered_to_bus` is False while Redis
        is away.

        Raises what the serializer raises for data that it cannot hold: TypeError, for JSON.
        """
        is_plain = callback is None and skip_sid is None and except_rooms is None and not self.is_chatty
        if is_plain and to.__class__ is str:
            # A client of this node: nobody else needs to know.
            is_time = self.manager.emit_to(to, namespace or MAIN, event, data, volatile=volatile)
            if is_time is not None:
                if is_time:
                    await self.manager.breathe(to, namespace or MAIN)
                return Fate.LOCAL
        target = target_of(to, room)
        if self.is_chatty:
            self.logger.info('emitting event "%s" to %s [%s]', event, target or "all", namespace or MAIN)
        options: dict[str, Any] = {}
        if volatile or except_rooms is not None:
            given = {"volatile": volatile, "except_rooms": except_rooms}
            options = {name: value for name, value in given.items() if value}
            self._check_emit_takes(options)
        fate = await self.manager.emit(
            event,
            data,
            namespace or MAIN,
            room=target,
            skip_sid=skip_sid,
            callback=callback,
            ignore_queue=ignore_queue,
            **options,
        )
        # A user's own client manager does not tell.
        return fate if fate.__class__ is Fate else Fate.LOCAL

    def _check_emit_takes(self, options: dict[str, Any]) -> None:
        """Raises UsageError if the user's client manager does not know them: it would leave them out in silence."""
        for name in options:
            if name not in inspect.signature(self.manager.emit).parameters:
                raise UsageError(f"emit({name}=…) does not work with a {type(self.manager).__name__}")

    async def call(
        self,
        event: str,
        data: Any = None,
        to: str | None = None,
        sid: str | None = None,
        namespace: str | None = None,
        timeout: float | None = 60,
        ignore_queue: bool = False,
    ) -> Any:
        """Emit an event to the client `to` (or `sid`) and return what it acknowledges with.

        Raises socketio.exceptions.TimeoutError; before the time is over, if the client is at another node and gone.
        """
        target = to or sid
        if not isinstance(target, str):
            raise ValueError("call() asks one client: give its sid")
        if not ignore_queue and self.manager.is_elsewhere(target, namespace or MAIN):
            answers = await self.broadcast_call(event, data, target, timeout=timeout, namespace=namespace)
            if target not in answers.given:
                raise socketio.exceptions.TimeoutError()
            return answers.given[target]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*arguments: Any) -> None:
            if not answer.done():
                answer.set_result(value_of(arguments))

        await self.emit(event, data, to=target, namespace=namespace, callback=answered, ignore_queue=ignore_queue)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise socketio.exceptions.TimeoutError() from None
        finally:
            self.manager.give_up(target, answered)

    # Clients

    def _session(self, sid: str, namespace: str | None) -> Session:
        """Raises NotConnected, which is a KeyError as in python-socketio."""
        session: Session = self.manager.directory.get(sid, namespace or MAIN).session.client.session
        return session

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """Return the user session of a client.  Raises KeyError if it is not connected to this node."""
        session = self._session(sid, namespace)
        if session.data is None:
            session.data = {}
        data: dict[str, Any] = session.data.setdefault(namespace or MAIN, {})
        return data

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """Store the user session of a client.  Raises KeyError if it is not connected to this node."""
        engine_session = self._session(sid, namespace)
        if engine_session.data is None:
            engine_session.data = {}
        engine_session.data[namespace or MAIN] = session

    def get_environ(self, sid: str, namespace: str | None = None) -> Environ | None:
        """Return the WSGI environ of the request that opened the client's connection, or None without such a client."""
        client = self.manager.directory.find(sid, namespace or MAIN)
        return None if client is None else client.session.client.session.environ

    def transport(self, sid: str, namespace: str | None = None) -> str:
        """Return `polling` or `websocket`.  Raises KeyError if the client is not connected to this node."""
        return self._session(sid, namespace).transport

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Disconnect a client.  What was emitted to it before arrives before."""
        namespace, manager = namespace or MAIN, self.manager
        if not (manager.is_connected(sid, namespace) if ignore_queue else await manager.can_disconnect(sid, namespace)):
            return
        client = manager.directory.get(sid, namespace)
        client.session.send(self.codec.disconnect(namespace))
        await self._dispatcher.leave(client, SERVER_DISCONNECT)
        self._dispatcher.watch(client.session.client)

    def instrument(self, auth: Any = None, **options: Any) -> Instrumentation:
        """Let the Socket.IO admin UI watch this server; arguments as in python-socketio."""
        return Instrumentation(self, auth=auth, **options)

    def _engineio_server_class(self) -> type[Engine]:
        return Engine
