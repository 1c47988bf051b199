"""What channels are measured by, and what is counted of them.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ChannelCounts:
    """What happened on all channels that share it."""

    slow_consumers: int = 0
    """Channels that were closed because too much waited for them."""
    volatile_dropped: int = 0
    """Volatile messages that a client did not get because it was behind."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What channels are measured by; all of a node share one."""

    max_message_bytes: int = 1_000_000
    slow_consumer_bytes: int = 1_048_576
    """What may wait for a client behind that which its transport holds (see node/outgoing.py)."""
    close_timeout_s: float = 5.0
    """From the first close frame to the end of the connection."""
    compression: bool = False
    """Whether permessage-deflate is agreed on with clients that offer it."""
    counts: ChannelCounts = field(default_factory=ChannelCounts)
