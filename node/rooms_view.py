"""A node's rooms as python-socketio's managers show them: nested mappings, made when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from node.rooms import Directory, Room, Space


class MembersView(Mapping[str, str]):
    """The Engine.IO sid of each member of a room, by its sid."""

    def __init__(self, space: Space, room: Room | None) -> None:
        self._space, self._room = space, room

    def __getitem__(self, sid: str) -> str:
        client = self._space.clients[sid]
        if client not in self._space.members(self._room):
            raise KeyError(sid)
        return client.session.sid

    def __iter__(self) -> Iterator[str]:
        return iter([client.sid for client in self._space.members(self._room)])

    def __len__(self) -> int:
        return len(self._space.members(self._room))


class RoomsView(Mapping[Room | None, MembersView]):
    """The rooms of a namespace.  None is everybody, and each client has a room of its own."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __getitem__(self, room: Room | None) -> MembersView:
        if room is not None and not self._space.members(room):
            raise KeyError(room)
        return MembersView(self._space, room)

    def __iter__(self) -> Iterator[Room | None]:
        return iter([None, *self._space.clients, *self._space.rooms])

    def __len__(self) -> int:
        return 1 + len(self._space.clients) + len(self._space.rooms)


class SpacesView(Mapping[str, RoomsView]):
    """The namespaces that have clients."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def __getitem__(self, namespace: str) -> RoomsView:
        return RoomsView(self._directory.spaces[namespace])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._directory.spaces))

    def __len__(self) -> int:
        return len(self._directory.spaces)
