"""Who has a channel: the seam between one WebSocket and what is spoken on it.  Pure."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """Gets what comes on a channel.  Called from the event loop, never from within a call of a channel's method."""

    def received(self, data: str | bytes) -> None:
        """Take one whole message, text or binary data."""

    def closed(self, code: int, reason: str) -> None:
        """Take note of the end: called exactly once, and nothing is received after it.

        `code` and `reason` are those of whoever closed first; 1006 if the connection broke, 1005 if the client's close
        frame gave none.
        """


class _Nobody:
    def received(self, data: str | bytes) -> None:
        """Nobody listens any more."""

    def closed(self, code: int, reason: str) -> None:
        """It was said."""


NOBODY: Receiver = _Nobody()
