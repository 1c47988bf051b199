"""An open channel as a value: with its connection's descriptor it can go on in another process."""

from __future__ import annotations

from dataclasses import dataclass

from node.reader import HalfRead


class NotQuiet(Exception):
    """The channel cannot be exported now: it is not held, has not drained yet, or is no longer open."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel that is held."""

    half: HalfRead
    unsent: bytes
    """Whole frames that were written and have not left."""
    deflates: int
    """The window, in bits, with which messages may be compressed; 0: permessage-deflate was not agreed on."""
