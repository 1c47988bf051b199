"""Who is in which room: a directory that must agree with a naive one, whatever happens."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from node.message import Message
from node.rooms import Client, Directory, NotConnected, rooms_in
from node.rooms_view import SpacesView


class Nowhere:
    """A session that drops everything."""

    client: Any = None

    def __init__(self, sid: str = "e") -> None:
        self.sid = sid

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        return True


def directory_of(*sids: str, namespace: str = "/") -> Directory:
    directory = Directory()
    for sid in sids:
        directory.add(Nowhere(f"e-{sid}"), sid, namespace)
    return directory


def sids(clients: list[Client]) -> list[str]:
    return [client.sid for client in clients]


def test_an_event_goes_to_everybody_a_room_several_rooms_or_one_client() -> None:
    """Each once, however many of the rooms they are in."""
    directory = directory_of("a", "b", "c")
    for sid, room in (("a", "red"), ("b", "red"), ("b", 7), ("c", ("tuple",))):
        directory.enter(directory.get(sid, "/"), room)
    assert sids(directory.recipients("/", None)) == ["a", "b", "c"]
    assert sids(directory.recipients("/", "red")) == ["a", "b"]
    assert sids(directory.recipients("/", 7)) == ["b"]
    assert sids(directory.recipients("/", ["red", 7, "c", "nobody"])) == ["a", "b", "c"]
    assert sids(directory.recipients("/", {7, "c"} & {"c"})) == ["c"]
    assert sids(directory.recipients("/", [("tuple",)])) == ["c"]
    assert directory.recipients("/", "nobody") == []
    assert directory.recipients("/", []) == []
    assert directory.recipients("/elsewhere", None) == []


def test_some_can_be_left_out() -> None:
    """By sid, one or several, and by rooms."""
    directory = directory_of("a", "b", "c")
    directory.enter(directory.get("a", "/"), "red")
    assert sids(directory.recipients("/", None, "a")) == ["b", "c"]
    assert sids(directory.recipients("/", None, ["a", "c"])) == ["b"]
    assert sids(directory.recipients("/", None, iter(("a", "c")))) == ["b"]
    assert sids(directory.recipients("/", None, None, "red")) == ["b", "c"]
    assert sids(directory.recipients("/", None, "b", ["red", "c"])) == []
    assert sids(directory.recipients("/", None, None, [])) == ["a", "b", "c"]


def test_another_clients_own_room_is_not_for_others() -> None:
    """Whoever could enter it would read along."""
    directory = directory_of("a", "b")
    with pytest.raises(ValueError, match="enter a sid room"):
        directory.enter(directory.get("a", "/"), "b")
    with pytest.raises(ValueError, match="close a sid room"):
        directory.close("b", "/")
    directory.enter(directory.get("a", "/"), "a")
    assert sids(directory.recipients("/", "a")) == ["a"]


def test_a_client_that_is_not_there_is_an_error_that_names_it() -> None:
    """A ValueError as well as a KeyError: python-socketio raises either."""
    directory = directory_of("a")
    for kind in (ValueError, KeyError, NotConnected):
        with pytest.raises(kind, match=r"^b is not connected to /$"):
            directory.get("b", "/")
    with pytest.raises(NotConnected):
        directory.get("a", "/elsewhere")
    assert directory.find(["a"], "/") is None


def test_leaving_what_one_is_not_in_is_no_error() -> None:
    """Nor is closing what nobody is in."""
    directory = directory_of("a")
    directory.leave(directory.get("a", "/"), "red")
    directory.close("red", "/")
    directory.close("red", "/elsewhere")
    directory.remove(directory.get("a", "/"))
    assert directory.spaces == {}


def test_rooms_are_one_or_several() -> None:
    """A text is one, and so is whatever is no collection."""
    assert rooms_in(None) == ()
    assert rooms_in("red") == ("red",)
    assert rooms_in(b"red") == (b"red",)
    assert rooms_in(7) == (7,)
    assert rooms_in(["red", 7]) == ["red", 7]


def test_an_idle_client_is_small() -> None:
    """Its own room costs nothing.  Without its sid and its place in the dictionary of all."""
    directory = directory_of("a")
    client = directory.get("a", "/")
    assert sys.getsizeof(client) <= 120
    assert client.rooms is None
    assert directory.spaces["/"].rooms == {}


def test_the_view_shows_rooms_as_python_socketio_keeps_them() -> None:
    """`rooms[namespace][room][sid]` is an Engine.IO sid; None is everybody, a sid its client's own room."""
    directory = directory_of("a", "b")
    directory.enter(directory.get("a", "/"), "red")
    view = SpacesView(directory)
    shown = {name: {room: dict(members) for room, members in rooms.items()} for name, rooms in view.items()}
    assert shown == {
        "/": {
            None: {"a": "e-a", "b": "e-b"},
            "a": {"a": "e-a"},
            "b": {"b": "e-b"},
            "red": {"a": "e-a"},
        }
    }
    assert (len(view), len(view["/"]), len(view["/"]["red"])) == (1, 4, 1)
    for missing in (lambda: view["/x"], lambda: view["/"]["x"], lambda: view["/"]["red"]["b"]):
        with pytest.raises(KeyError):
            missing()


class Naive(RuleBasedStateMachine):
    """Every client with its rooms, in one dictionary."""

    clients = Bundle("clients")
    rooms = st.sampled_from(["red", "blue", 3])

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.naive: dict[tuple[str, str], set[Any]] = {}
        self.count = 0

    @rule(target=clients, namespace=st.sampled_from(["/", "/chat"]))
    def connect(self, namespace: str) -> tuple[str, str]:
        self.count += 1
        sid = f"s{self.count}"
        self.directory.add(Nowhere(), sid, namespace)
        self.naive[namespace, sid] = set()
        return namespace, sid

    @rule(client=clients, room=rooms)
    def enter(self, client: tuple[str, str], room: Any) -> None:
        if client in self.naive:
            self.directory.enter(self.directory.get(client[1], client[0]), room)
            self.naive[client].add(room)

    @rule(client=clients, room=rooms)
    def leave(self, client: tuple[str, str], room: Any) -> None:
        if client in self.naive:
            self.directory.leave(self.directory.get(client[1], client[0]), room)
            self.naive[client].discard(room)

    @rule(namespace=st.sampled_from(["/", "/chat"]), room=rooms)
    def close(self, namespace: str, room: Any) -> None:
        self.directory.close(room, namespace)
        for (where, _), entered in self.naive.items():
            if where == namespace:
                entered.discard(room)

    @rule(client=clients)
    def disconnect(self, client: tuple[str, str]) -> None:
        found = self.directory.find(client[1], client[0])
        assert (found is not None) is (client in self.naive)
        if found is not None:
            self.directory.remove(found)
            del self.naive[client]

    @invariant()
    def they_agree(self) -> None:
        for namespace in ("/", "/chat"):
            for room in ("red", "blue", 3):
                expected = {
                    sid for (where, sid), entered in self.naive.items() if where == namespace and room in entered
                }
                assert set(sids(self.directory.recipients(namespace, room))) == expected
        assert set(self.directory.spaces) == {namespace for namespace, _ in self.naive}
        for space in self.directory.spaces.values():
            assert all(space.rooms.values()), "an empty room is kept"
            assert all(client.rooms is None or client.rooms for client in space.clients.values())


TestDirectory = Naive.TestCase
