"""The client manager of a node: python-socketio's `AsyncManager`, over our own rooms and with our own delivery.

`sio.manager` keeps the methods that python-socketio's managers have, and a user's own `client_manager` keeps working:
node/users_manager.py puts what is here between its class and AsyncManager, so that whatever it overrides is its own,
and whatever it inherits is ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from socketio.async_manager import AsyncManager
from socketio.async_pubsub_manager import AsyncPubSubManager

from node.answers import Reply, Waiting
from node.broadcast import broadcast
from node.codec import arguments_of
from node.fate import Fate
from node.message import Message
from node.peer import Held, Peer
from node.rooms import Client, Directory, Room, Rooms, State
from node.rooms_view import SpacesView
from node.routes import awaited, bounds

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger(__name__)

BURST_BYTES = 65536
"""What emits may send, all together, before they give way to everybody else."""

MOST_PENDING_ACKS = 10_000
"""Callbacks of one client that wait for its acknowledgement; the oldest are given up.  Some clients never answer."""


_OURS = frozenset({__name__, "node.fanout", AsyncPubSubManager.__module__})


class ClientManager(AsyncManager):  # type: ignore[misc]
    """Who is connected to this node, and the delivery of messages to them."""

    server: Server
    callbacks: dict[Any, dict[int, Any]]
    _burst = 0
    _emit_is_ours = False
    """No user overrides `emit`, so that it need not be called for each message to one client."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()

    def set_server(self, server: Server) -> None:
        super().set_server(server)
        self._emit_is_ours = type(self).emit.__module__ in _OURS

    @property
    def rooms(self) -> SpacesView:
        """`rooms[namespace][room][sid]` is an Engine.IO sid, as in python-socketio; to look at, not to change."""
        return SpacesView(self.directory)

    @rooms.setter
    def rooms(self, _: dict[str, Any]) -> None:
        """python-socketio's constructor puts an empty dictionary here."""

    # Delivery

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Rooms | None = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: Callable[..., Any] | None = None,
        to: Rooms | None = None,
        *,
        volatile: bool = False,
        except_rooms: Rooms | None = None,
        **_: Any,
    ) -> Fate:
        """Send an event to the clients on this node; there are no others."""
        found = self.directory.recipients(namespace, room if to is None else to, skip_sid, except_rooms)
        if not found:
            return Fate.LOCAL
        self._burst += self.deliver(found, event, data, callback, volatile=volatile)
        if self._burst > BURST_BYTES:
            await self.breathe(found[0].sid if len(found) == 1 else None, namespace)
        return Fate.LOCAL

    def deliver(
        self,
        clients: Collection[Client],
        event: str,
        data: Any,
        callback: Callable[..., Any] | None = None,
        *,
        volatile: bool = False,
    ) -> int:
        """Send an event to these, who are in one namespace: encoded once, unless each is to acknowledge it.

        Returns the size of what each of them gets, in bytes.
        """
        content = [event, *arguments_of(data)]
        codec = self.server.codec
        message: Message | None = None
        if callback is None:
            for first in clients:
                message = codec.event(first.space.name, content)
                self.server.eio.messages_out += broadcast(clients, message, volatile=volatile)
                break
        else:
            for client in clients:
                message = codec.event(client.space.name, content, self._generate_ack_id(client.sid, callback))
                client.session.send(message, volatile=volatile)
        if self.server.observer is not None:
            for client in clients:
                self.server.observer.sent(client, content)
        return 0 if message is None else message.size

    def ask(self, clients: Iterable[Client], event: str, data: Any, waiting: Waiting) -> None:
        """Send an event to these, and let `waiting` have their acknowledgements."""
        for client in clients:
            self.deliver((client,), event, data, waiting.of(client.sid))

    def emit_to(self, sid: Any, namespace: str, event: str, data: Any, *, volatile: bool = False) -> bool | None:
        """Send an event to one client; return None if it is not here, else whether it is time to `breathe`."""
        space = self.directory.spaces.get(namespace)
        client = None if space is None else space.clients.get(sid)
        if client is None or not self._emit_is_ours:
            return None
        content = [event, data] if data is not None and data.__class__ is not tuple else [event, *arguments_of(data)]
        message = self.server.codec.event(namespace, content)
        client.session.send(message, volatile=volatile)
        if self.server.observer is not None:
            self.server.observer.sent(client, content)
        self._burst += message.size
        return self._burst > BURST_BYTES

    async def breathe(self, target: Rooms | None, namespace: str) -> None:
        """Let what was sent leave: who emits in a loop without end must not fill its clients' buffers in one turn."""
        self._burst = 0
        await asyncio.sleep(0)
        client = self.directory.find(target, namespace)
        if client is not None:
            session = client.session.client.session
            if session.waiting_bytes > BURST_BYTES:
                await session.flush()

    # Acknowledgements

    def _generate_ack_id(self, sid: Any, callback: Any) -> int:
        id_ = cast(int, super()._generate_ack_id(sid, callback))
        pending = self.callbacks[sid]
        # Its first entry is python-socketio's counter.
        if len(pending) - 1 > MOST_PENDING_ACKS:
            oldest = next(key for key in pending if key)
            del pending[oldest]
        return id_

    def reply_to(self, sid: str, id_: int) -> Reply | None:
        """Take out the callback for an acknowledgement, if it is one of ours, which need not be waited for."""
        pending = self.callbacks.get(sid)
        return pending.pop(id_) if pending is not None and type(pending.get(id_)) is Reply else None

    def give_up(self, sid: Any, callback: Any) -> None:
        """Nobody waits any more for the acknowledgement that would call `callback`."""
        pending = self.callbacks.get(sid, {})
        for id_ in [each for each, waiting in pending.items() if waiting is callback]:
            del pending[id_]

    async def trigger_callback(self, sid: str, id: int, data: list[Any]) -> None:
        """Give an acknowledgement to whoever waits for it.  Clients also acknowledge what nobody asked them."""
        callback = self.callbacks.get(sid, {}).pop(id, None) if id > 0 else None
        if callback is None:
            log.info("acknowledgement ignored: nobody waits for it", extra={"sid": sid, "id": id})
            return
        fewest, most = bounds(callback)
        if not fewest <= len(data) <= most:
            log.warning("acknowledgement ignored: the callback takes other arguments", extra={"sid": sid, "id": id})
            return
        try:
            await awaited(callback(*data))
        except Exception:
            log.exception("callback of an acknowledgement failed", extra={"sid": sid, "id": id})

    # Clients come and go

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Register a client, not accepted yet; return its sid, or None if it is connected already."""
        peer: Peer = self.server.eio.sessions[eio_sid].client
        if peer.find(namespace) is not None:
            return None
        client = self.directory.add(Held(peer.session), self.server.eio.generate_id(), namespace)
        peer.add(client)
        return client.sid

    async def connect(self, sid: str, namespace: str) -> str:
        """Accept a client: what was sent to it so far goes out."""
        client = self.directory.get(sid, namespace)
        if client.state is State.CONNECTING:
            client.state = State.CONNECTED
        if isinstance(client.session, Held):
            client.session.release(client)
        return sid

    def is_pre_connected(self, sid: str, namespace: str) -> bool:
        client = self.directory.find(sid, namespace)
        return client is not None and client.state is State.CONNECTING

    def is_connected(self, sid: str | None, namespace: str) -> bool:
        client = self.directory.find(sid, namespace)
        return client is not None and client.state is State.CONNECTED

    def pre_disconnect(self, sid: str, namespace: str) -> str:
        """Its disconnect handler is about to run: the client is still in its rooms, and is not connected."""
        client = self.directory.get(sid, namespace)
        client.state = State.LEAVING
        return client.session.sid

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        client = self.directory.find(sid, namespace)
        if client is None:
            return
        self.directory.remove(client)
        for callback in self.callbacks.pop(sid, {}).values():
            if type(callback) is Reply:
                callback.gone()
        peer: Peer = client.session.client
        peer.remove(client)

    # Questions

    def get_namespaces(self) -> Collection[str]:
        return self.directory.spaces.keys()

    def get_participants(self, namespace: str, room: Rooms | None) -> Iterator[tuple[str, str]]:
        """Yield the sid and the Engine.IO sid of each client of this node in `room`."""
        for client in self.directory.recipients(namespace, room):
            yield client.sid, client.session.sid

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        session = self.server.eio.sessions.get(eio_sid)
        client = None if session is None else session.client.find(namespace)
        return None if client is None else client.sid

    def is_elsewhere(self, sid: str, namespace: str) -> bool:
        """Return whether `sid` names another node, as far as we know."""
        return False

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str | None:
        client = self.directory.find(sid, namespace)
        return None if client is None else client.session.sid

    def is_sid_room(self, namespace: str, room: Room) -> bool:
        return self.directory.find(room, namespace) is not None

    # Rooms

    def basic_enter_room(self, sid: str, namespace: str, room: Room, eio_sid: str | None = None) -> None:
        """Raises NotConnected, and ValueError for another client's own room."""
        client = self.directory.get(sid, namespace)
        self.directory.enter(client, room)
        if self.server.observer is not None:
            self.server.observer.entered(client, room)

    def basic_leave_room(self, sid: str, namespace: str, room: Room) -> None:
        client = self.directory.find(sid, namespace)
        if client is not None:
            self.directory.leave(client, room)
            if self.server.observer is not None:
                self.server.observer.quit(client, room)

    def basic_close_room(self, room: Room, namespace: str) -> None:
        """Raises ValueError for a client's own room."""
        self.directory.close(room, namespace)

    def get_rooms(self, sid: str, namespace: str) -> list[Room]:
        client = self.directory.find(sid, namespace)
        return [] if client is None else [sid, *(client.rooms or ())]
