"""What nodes say of their share of something that is done on all: a deed's target, and the pieces of its answer.  Pure.

Each `…_in` reads one piece as it comes from another node; it raises ValueError or TypeError for what no node would say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from node.outcome import Handshake, RemoteSocket
from node.rooms import Room
from node.wire import as_lists

HEARD = object()
"""What a deed yields first that takes its time: it has begun."""

Deed = Callable[..., AsyncIterator[Any]]
"""Yields the pieces of its answer, so that one about a hundred thousand clients is many small ones."""


class Target(NamedTuple):
    """Clients of a namespace: in one of `rooms` (None: all), in none of `except_rooms`, not in `skip`."""

    namespace: str
    rooms: tuple[Room, ...] | None
    skip: tuple[str, ...] = ()
    except_rooms: tuple[Room, ...] = ()


def sockets_in(piece: Any) -> list[RemoteSocket]:
    """Read what `fetch` says: (sid, namespace, node, rooms, session, address, head of the request) of each."""
    found = []
    for sid, namespace, node, rooms, session, address, head in piece:
        if not all(isinstance(text, str) for text in (sid, namespace, node, address)) or not isinstance(session, dict):
            raise TypeError("no client")
        handshake = handshake_of(head, address)
        found.append(RemoteSocket(sid, namespace, node, frozenset(rooms), as_lists(session), handshake))
    return found


def count_in(piece: Any) -> int:
    """Read to how many clients something was done."""
    if type(piece) is not int or piece < 0:
        raise TypeError("no count")
    return piece


def answers_in(piece: Any) -> list[tuple[Any, ...]]:
    """Read what clients have answered: (sid, answer) of each, or (sid,) without one.

    It comes as (sid, whether these are several arguments, answer): on their way lists become tuples.
    """
    found: list[tuple[Any, ...]] = []
    for sid, *answer in piece:
        if not isinstance(sid, str) or len(answer) not in (0, 2):
            raise TypeError("no answer")
        if not answer:
            found.append((sid,))
        elif answer[0]:
            found.append((sid, tuple(map(as_lists, answer[1]))))
        else:
            found.append((sid, as_lists(answer[1])))
    return found


def handshake_of(head: Any, address: str) -> Handshake:
    """Read the head of a request that a node has accepted.  Raises ValueError or TypeError for anything else."""
    if not isinstance(head, bytes):
        raise TypeError("no handshake")
    first, *lines = head.decode(errors="replace").split("\r\n")
    _, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            key, value = key.strip().lower(), value.strip()
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    return Handshake(address, path, dict(parse_qsl(query, keep_blank_values=True)), headers)
