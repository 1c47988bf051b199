"""What cluster operations bring: always with the names of the nodes of which nothing was heard.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Handshake:
    """The request that opened a client's connection; names of `headers` are in lower case."""

    address: str = ""
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteSocket:
    """A client, as it was when it was asked for; `rooms` are those that it entered."""

    sid: str
    namespace: str
    node: str
    rooms: frozenset[Any]
    session: dict[str, Any]
    """Its user session, or the part of it that can travel: text, numbers, bytes, lists and dicts of these."""
    handshake: Handshake


@dataclass(frozen=True)
class Partial:
    """`missing`: nodes that did not answer in time; `failed`: why others could not do their share, by name."""

    missing: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.failed


@dataclass(frozen=True)
class Outcome(Partial):
    """To so many clients it was done."""

    clients: int = 0


@dataclass(frozen=True)
class Replies(Partial):
    """What other nodes' handlers returned, by name."""

    given: dict[str, Any] = field(default_factory=dict)


class Sockets(list[RemoteSocket]):
    """The clients that were found; `missing` and `failed` as in Partial."""

    def __init__(self, found: Iterable[RemoteSocket], partial: Partial) -> None:
        super().__init__(found)
        self.missing, self.failed = partial.missing, partial.failed

    @property
    def complete(self) -> bool:
        return not self.missing and not self.failed
