"""Waiting for clients' acknowledgements: of one client (`call`), or of many (`broadcast_call`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answers:
    """What `broadcast_call` brought: the answers by sid, and who had given none when the time was over.

    `missing_nodes` are those of whose clients nothing is known.
    """

    given: dict[str, Any]
    missing: tuple[str, ...]
    missing_nodes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing and not self.missing_nodes


class Waiting:
    """Collects the answers of `sids`."""

    def __init__(self, sids: Sequence[str]) -> None:
        self._given: dict[str, Any] = {}
        self._missing = dict.fromkeys(sids)
        self._still = set(sids)
        self._done = asyncio.get_running_loop().create_future()
        self._look()

    def of(self, sid: str) -> Reply:
        """Return the callback for the acknowledgement of one of them."""
        return Reply(self, sid)

    def answered(self, sid: str, arguments: Sequence[Any]) -> None:
        self._given[sid] = value_of(arguments)
        self._missing.pop(sid, None)
        self.gone(sid)

    def gone(self, sid: str) -> None:
        """Nothing more is to be expected of this one."""
        self._still.discard(sid)
        self._look()

    async def answers(self, timeout_s: float | None) -> Answers:
        """Wait until all have answered or are gone, or the time is over."""
        await asyncio.wait([self._done], timeout=timeout_s)
        return Answers(self._given, tuple(self._missing))

    def _look(self) -> None:
        if not self._still and not self._done.done():
            self._done.set_result(None)


class Reply:
    """The callback for one client's acknowledgement.  `gone` is called instead when the client disconnects."""

    __slots__ = ("_sid", "_waiting")

    def __init__(self, waiting: Waiting, sid: str) -> None:
        self._waiting, self._sid = waiting, sid

    def __call__(self, *arguments: Any) -> None:
        self._waiting.answered(self._sid, arguments)

    def gone(self) -> None:
        self._waiting.gone(self._sid)


def value_of(arguments: Sequence[Any]) -> Any:
    """Return an acknowledgement as `call` does: None, its only argument, or a tuple of several."""
    if len(arguments) > 1:
        return tuple(arguments)
    return arguments[0] if arguments else None
