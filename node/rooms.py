"""Who is connected to which namespace, and in which rooms, on this node.  Pure.

Sized for many idle clients: a client is one small object, its own room (its sid) costs nothing, and rooms are kept
only for those who entered some.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from enum import IntEnum
from typing import Any, Protocol

from node.message import Message

Room = Hashable
Rooms = Room | Collection[Room]
"""One room, or several: any collection that is no text."""


class NotConnected(ValueError, KeyError):
    """No such client in this namespace, on this node."""

    def __str__(self) -> str:
        return ValueError.__str__(self)


class Sink(Protocol):
    """Where a client's messages go: an Engine.IO session, or what stands in for one."""

    @property
    def sid(self) -> str: ...

    @property
    def client(self) -> Any:
        """The node.peer.Peer of that session."""

    def send(self, message: Message, *, volatile: bool = False) -> bool: ...


class State(IntEnum):
    """Of a client.  CONNECTING: the connect handler has not decided.  LEAVING: its disconnect handler runs."""

    CONNECTING = 0
    CONNECTED = 1
    LEAVING = 2


class Client:
    """One connection to one namespace, known by its `sid`."""

    __slots__ = ("rooms", "session", "sid", "space", "state")

    def __init__(self, session: Sink, sid: str, space: Space) -> None:
        self.session = session
        self.sid = sid
        self.space = space
        self.state = State.CONNECTING
        self.rooms: set[Room] | None = None

    @property
    def namespace(self) -> str:
        return self.space.name


class Space:
    """One namespace: its clients by sid, and the members of each room in the order in which they entered."""

    __slots__ = ("clients", "name", "rooms")

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: dict[str, Client] = {}
        self.rooms: dict[Room, dict[Client, None]] = {}

    def members(self, room: Room | None) -> Collection[Client]:
        """Return those in `room`: None is everybody, a sid its client.  A live view: copy it before you act on it."""
        if room is None:
            return self.clients.values()
        if room in self.rooms:
            return self.rooms[room]
        client = self.clients.get(room) if isinstance(room, str) else None
        return () if client is None else (client,)


class Watcher(Protocol):
    """Told which rooms have members on this node.  None is the namespace itself: everybody."""

    def opened(self, namespace: str, room: Room | None) -> None:
        """The first member is about to enter."""

    def closed(self, namespace: str, room: Room | None) -> None:
        """The last has left."""


class Directory:
    """All namespaces that have clients."""

    def __init__(self) -> None:
        self.spaces: dict[str, Space] = {}
        self.watcher: Watcher | None = None

    def add(self, session: Sink, sid: str, namespace: str) -> Client:
        """Register a client, still CONNECTING."""
        space = self.spaces.get(namespace)
        if space is None:
            if self.watcher is not None:
                self.watcher.opened(namespace, None)
            space = self.spaces[namespace] = Space(namespace)
        client = space.clients[sid] = Client(session, sid, space)
        return client

    def find(self, sid: object, namespace: str) -> Client | None:
        space = self.spaces.get(namespace)
        return space.clients.get(sid) if space is not None and isinstance(sid, str) else None

    def get(self, sid: str, namespace: str) -> Client:
        """As `find`.  Raises NotConnected."""
        client = self.find(sid, namespace)
        if client is None:
            raise NotConnected(f"{sid} is not connected to {namespace}")
        return client

    def remove(self, client: Client) -> None:
        """Forget the client, in whatever rooms it is."""
        for room in tuple(client.rooms or ()):
            self.leave(client, room)
        space = client.space
        if space.clients.pop(client.sid, None) is not None and not space.clients:
            del self.spaces[space.name]
            if self.watcher is not None:
                self.watcher.closed(space.name, None)

    def enter(self, client: Client, room: Room) -> None:
        """Raises ValueError if `room` is another client's own."""
        if room is None or room == client.sid:
            return
        space = client.space
        if isinstance(room, str) and room in space.clients:
            raise ValueError("cannot enter a sid room")
        members = space.rooms.get(room)
        if members is None:
            if self.watcher is not None:
                self.watcher.opened(space.name, room)
            members = space.rooms[room] = {}
        members[client] = None
        if client.rooms is None:
            client.rooms = set()
        client.rooms.add(room)

    def leave(self, client: Client, room: Room) -> None:
        if client.rooms is None or room not in client.rooms:
            return
        client.rooms.discard(room)
        if not client.rooms:
            client.rooms = None
        members = client.space.rooms[room]
        del members[client]
        if not members:
            del client.space.rooms[room]
            if self.watcher is not None:
                self.watcher.closed(client.namespace, room)

    def close(self, room: Room, namespace: str) -> None:
        """Let everybody leave `room`.  Raises ValueError if it is a client's own."""
        space = self.spaces.get(namespace)
        if space is None:
            return
        if isinstance(room, str) and room in space.clients:
            raise ValueError("cannot close a sid room")
        for client in tuple(space.rooms.get(room, ())):
            self.leave(client, room)

    def recipients(
        self,
        namespace: str,
        to: Rooms | None,
        skip: str | Iterable[str] | None = None,
        except_rooms: Rooms | None = None,
    ) -> list[Client]:
        """Return each client once who is in a room of `to` (None: everybody), in none of `except_rooms`, not in `skip`.

        `skip` is a sid or several.
        """
        space = self.spaces.get(namespace)
        if space is None:
            return []
        if to is None or isinstance(to, str):
            found = list(space.members(to))
        else:
            found = list(dict.fromkeys(client for room in rooms_in(to) for client in space.members(room)))
        if skip:
            skipped = {skip} if isinstance(skip, str) else set(skip)
            found = [client for client in found if client.sid not in skipped]
        if except_rooms is not None:
            out = {client for room in rooms_in(except_rooms) for client in space.members(room)}
            found = [client for client in found if client not in out]
        return found


def rooms_in(rooms: Rooms | None) -> Collection[Room]:
    """Return them as a collection, whether it is one room or several; a room's name may be of any hashable type."""
    if rooms is None:
        return ()
    if isinstance(rooms, str | bytes) or not isinstance(rooms, Collection):
        return (rooms,)
    return rooms


def target_of(to: Rooms | None, room: Rooms | None) -> Rooms | None:
    """Return where an event goes, None being everybody: python-socketio takes "" for that.  [] is nobody."""
    for rooms in (to, room):
        if rooms is not None and rooms != "":
            return rooms
    return None
