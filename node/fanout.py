"""Rooms of all nodes: the client manager of a node that has neighbours.

An emit reaches the clients of its own node first, without Redis, and then goes over the bus as the very text that the
others get: encoded once.  This node listens to a room while it has a member of it, and to a namespace while it has a
client there, so a message costs nothing where nobody wants it.  The room of a single client is at the node that its
sid names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from cluster.channels import Channel
from node.asking import Answering, Asker, Others
from node.bus import Health
from node.clients import BURST_BYTES, ClientManager
from node.codec import MAIN, arguments_of
from node.elsewhere import Elsewhere
from node.fate import Fate
from node.message import Message
from node.post import Post
from node.questions import Questions
from node.rooms import Client, Room, Rooms, rooms_in
from node.wire import Emit, Envelope

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger(__name__)


class Fanout(ClientManager):
    """Client manager over the `post`.  `slot_of` tells the node that a sid names, if it is a sid.  `run` must run.

    `others` tells which nodes there may be.
    """

    def __init__(self, post: Post, slot_of: Callable[[str], str | None], others: Others) -> None:
        super().__init__()
        self.post = post
        self.questions = Questions(post)
        self.host_id = post.origin.hex()
        self._slot_of = slot_of
        self.asker = Asker(post, self.questions, others)
        self._elsewhere = Elsewhere(self)
        self._tags: dict[str, str | None] = {}
        self._group: asyncio.TaskGroup | None = None
        self.directory.watcher = self
        post.take(Emit, self._take)

    def initialize(self) -> None:
        """python-socketio calls this with the first client, to start its listener.  Ours is `run`, started earlier."""

    def set_server(self, server: Server) -> None:
        super().set_server(server)
        Answering(self.post, self.questions, server.share.deeds, self.start)
        self.post.bus.want(self.post.channels.servers)

    async def run(self) -> None:
        """Hand what other nodes send to our clients, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self.post.run()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what another node asked for.  It must not fail all others."""
        if self._group is None:
            work.close()
        else:
            self._group.create_task(_contained(work))

    # Emitting

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str | None = None,
        room: Rooms | None = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: Callable[..., Any] | None = None,
        to: Rooms | None = None,
        *,
        volatile: bool = False,
        except_rooms: Rooms | None = None,
        ignore_queue: bool = False,
        **_: Any,
    ) -> Fate:
        """Send an event to the clients here, and to those of the other nodes; return what became of the latter.

        Only one room can acknowledge.  Raises TypeError for data that cannot be sent, before anybody has it.
        """
        target, space = room if to is None else to, namespace or MAIN
        skip = (skip_sid,) if isinstance(skip_sid, str) else tuple(skip_sid or ())
        if ignore_queue or (callback is not None and self.directory.find(target, space) is not None):
            options: dict[str, Any] = {"volatile": volatile, "except_rooms": except_rooms}
            await ClientManager.emit(self, event, data, space, target, skip, callback, **options)
            return Fate.LOCAL
        if callback is not None:
            return await self._elsewhere.emit_asking(event, data, space, target, skip, callback)
        content = [event, *arguments_of(data)]
        message = self.server.codec.event(space, content)
        # This may raise, and only notes what to send: both go out at the end of this turn.
        fate = self._publish(space, target, message, skip, except_rooms, volatile)
        found = self.directory.recipients(space, target, skip, except_rooms)
        if found:
            self._send(found, message, content, volatile=volatile)
            self._burst += message.size
        if self._burst > BURST_BYTES:
            await self.breathe(found[0].sid if len(found) == 1 else None, space)
        if self.post.bus.is_behind:
            await self.post.bus.room()
        return fate

    def _publish(
        self,
        space: str,
        target: Rooms | None,
        message: Message,
        skip: tuple[str, ...],
        except_rooms: Rooms | None,
        volatile: bool,
    ) -> Fate:
        rooms: tuple[Room, ...] | None
        channels: tuple[Channel, ...]
        if target.__class__ is str:
            rooms, channel = (target,), self._channel(space, target)
            channels = () if channel is None else (channel,)
        else:
            rooms = None if target is None else tuple(rooms_in(target))
            channels = tuple(self.channels_to(space, target))
        if not channels:
            return Fate.LOCAL
        if volatile and self.post.bus.health is not Health.OK:
            return Fate.DROPPED
        outside = () if except_rooms is None else tuple(rooms_in(except_rooms))
        content = Emit(space, rooms, message.text, message.binaries, skip, outside, volatile)
        return self.post.send(channels[0], content) if len(channels) == 1 else self.post.send_all(channels, content)

    def channels_to(self, space: str, target: Rooms | None) -> list[Channel]:
        """Return where other nodes listen who may have members in a room of `target`; None is everybody."""
        if target is None:
            return [self.post.channels.everybody(space)]
        rooms = (target,) if isinstance(target, str) else rooms_in(target)
        found = [self._channel(space, room) for room in rooms]
        return [channel for channel in dict.fromkeys(found) if channel is not None]

    def _channel(self, space: str, room: Room) -> Channel | None:
        name = self.node_of(room)
        if name is None:
            return self.post.channels.room(space, room)
        # A client of ours, who is here or is gone: nobody else has it.
        return None if name == self.post.name else self.post.channels.node(name)

    def node_of(self, room: object) -> str | None:
        """Return the node that `room` names if it is a sid, else None."""
        if not isinstance(room, str):
            return None
        tag, dot, _ = room.partition(".")
        if not dot:
            return None
        if tag not in self._tags:
            if len(self._tags) >= MOST_TAGS:
                self._tags.clear()
            self._tags[tag] = self._slot_of(room)
        return self._tags[tag]

    # From other nodes

    def _take(self, envelope: Envelope) -> None:
        emit = envelope.content
        assert isinstance(emit, Emit)
        rooms: Any = emit.rooms
        if rooms is not None and len(rooms) == 1 and isinstance(rooms[0], str):
            rooms = rooms[0]
        found = self.directory.recipients(emit.namespace, rooms, emit.skip, emit.except_rooms or None)
        if found:
            self._send(found, emit.message, None, volatile=emit.volatile)

    def _send(self, clients: list[Client], message: Message, content: list[Any] | None, *, volatile: bool) -> None:
        for client in clients:
            client.session.send(message, volatile=volatile)
        observer = self.server.observer
        if observer is not None:
            content = self._elsewhere.content_of(message) if content is None else content
            for client in clients:
                observer.sent(client, content)

    # Rooms

    def opened(self, namespace: str, room: Room | None) -> None:
        """From now on this node listens.  Raises TypeError for a room that cannot be named on other nodes."""
        self.post.bus.want(self._listening(namespace, room))

    def closed(self, namespace: str, room: Room | None) -> None:
        self.post.bus.unsubscribe(self._listening(namespace, room))

    def _listening(self, namespace: str, room: Room | None) -> Channel:
        channels = self.post.channels
        return channels.everybody(namespace) if room is None else channels.room(namespace, room)

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """As ClientManager's, and return when the node hears what is for everybody."""
        sid = await super().pre_connect(eio_sid, namespace)
        await self.post.bus.subscribe(self.post.channels.everybody(namespace))
        return sid

    async def enter_room(self, sid: str, namespace: str | None, room: Room, eio_sid: str | None = None) -> None:
        """Let a client enter; return when messages of other nodes to the room arrive here (or Redis is away).

        A client of another node enters there.  Raises ValueError for the room of a client.
        """
        space = namespace or MAIN
        if self.is_elsewhere(sid, space):
            await self._elsewhere.ask(sid, "enter", (space, sid, room))
            return
        if room != sid and self.node_of(room) is not None:
            raise ValueError("cannot enter a sid room")
        await super().enter_room(sid, space, room, eio_sid)
        if room is not None and room != sid:
            await self.post.bus.subscribe(self.post.channels.room(space, room))

    async def leave_room(self, sid: str, namespace: str | None, room: Room) -> None:
        """Let a client leave, wherever it is."""
        space = namespace or MAIN
        if self.is_elsewhere(sid, space):
            await self._elsewhere.ask(sid, "leave", (space, sid, room))
        else:
            await super().leave_room(sid, space, room)

    async def close_room(self, room: Room, namespace: str | None = None) -> None:
        """Let everybody leave, on all nodes."""
        space = namespace or MAIN
        await super().close_room(room, space)
        self.questions.ask(self.channels_to(space, room), "close", (space, room))

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Return whether the client is here; if it is on another node, that one disconnects it."""
        if self.is_elsewhere(sid, namespace):
            await self._elsewhere.ask(sid, "disconnect", (namespace, sid))
            return False
        return self.directory.find(sid, namespace) is not None

    async def disconnect(self, sid: str, namespace: str, **options: Any) -> None:
        """Forget a client, or let its node disconnect it."""
        if options.get("ignore_queue") or not self.is_elsewhere(sid, namespace):
            self.basic_disconnect(sid, namespace)
        else:
            await self._elsewhere.ask(sid, "disconnect", (namespace, sid))

    def is_elsewhere(self, sid: str, namespace: str) -> bool:
        return self.directory.find(sid, namespace) is None and self.node_of(sid) not in (None, self.post.name)

    def give_up(self, sid: Any, callback: Any) -> None:
        super().give_up(sid, callback)
        self._elsewhere.give_up(callback)


MOST_TAGS = 4096


async def _contained(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("what another node asked for failed")
