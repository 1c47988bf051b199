"""One question to many nodes: who has it, who has answered, and who is still missing.  Pure.

How many have it is known from Redis, which counts those to whom it gives a message.  Each node says with its first
answer on which of the question's channels it listens; when these add up to what Redis counted, everybody was heard.
If they do not, somebody is slow, or came or went at that moment: then the roll is called, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

Read = Callable[[Any], Any]


class Survey:
    """`own` are the places among `channels` channels at which we listen ourselves: Redis counts us, too.

    `read` checks a piece of an answer and returns what it says; it raises ValueError or TypeError for nonsense.
    """

    def __init__(self, channels: int, own: Collection[int], read: Read) -> None:
        self._listeners: list[int | None] = [None] * channels
        self._own = own
        self._read = read
        self._heard: dict[str, frozenset[int]] = {}
        self._done: set[str] = set()
        self._roll: set[str] | None = None
        self.pieces: dict[str, list[Any]] = {}
        """What each node has said."""
        self.failed: dict[str, str] = {}
        """Why others could not."""

    def counted(self, place: int, listeners: int) -> None:
        """So many have it from the channel at that place."""
        self._listeners[place] = listeners - (place in self._own)

    def answered(self, name: str, value: Any, error: str) -> None:
        """The node `name` says something; what comes after its last word does not count."""
        if name in self._done:
            return
        if error:
            self._end(name, error)
            return
        try:
            more, heard, *said = value
            places = frozenset(heard)
            if not isinstance(more, bool) or len(said) > 1 or not places <= set(range(len(self._listeners))):
                raise ValueError
            pieces = [self._read(each) for each in said]
        except (ValueError, TypeError):
            # Another version of us, or somebody else with access to Redis.
            self._end(name, "its answer is not understood")
            return
        self._heard[name] = places
        self.pieces.setdefault(name, []).extend(pieces)
        if not more:
            self._done.add(name)

    def _end(self, name: str, error: str) -> None:
        self._heard.setdefault(name, frozenset())
        self._done.add(name)
        self.failed[name] = error

    def call_roll(self, names: Iterable[str]) -> list[str]:
        """From now on these are waited for, and all that were heard; return who has not said anything yet."""
        self._roll = set(names)
        return sorted(self._roll - self._heard.keys())

    def strike(self, names: Collection[str]) -> None:
        """These are gone, and so is what they had half said."""
        for name in self._open() & set(names):
            self._done.add(name)
            self._heard.setdefault(name, frozenset())
            self.pieces.pop(name, None)

    @property
    def is_counted(self) -> bool:
        """Whether everybody was heard, or at least is known by name."""
        if self._roll is not None:
            return True
        return all(
            count is not None and count <= sum(place in heard for heard in self._heard.values())
            for place, count in enumerate(self._listeners)
        )

    @property
    def is_complete(self) -> bool:
        return self.is_counted and not self._open()

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not answered to the end."""
        return tuple(sorted(self._open()))

    def _open(self) -> set[str]:
        return (self._heard.keys() | (self._roll or set())) - self._done
