"""A connection that has just been accepted, and what one look at it showed."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from lb.begun import Begun
from lb.errors import BalancerError
from lb.route import Choice


@dataclass(eq=False, slots=True)  # not frozen: that takes twice as long to make, and each handshake makes one
class Arrived:
    """A connection that was accepted; `received` is what its client had sent by then."""

    sock: socket.socket
    peer: str
    received: bytes
    refusal: BalancerError | None = None
    """Why it is not let in."""
    choice: Choice | BalancerError | None = None
    """The node for its first request, or why it gets none, if that was found already: to choose twice would take two
    turns."""
    passed: bool = False
    """Whether its first request was found to keep to all limits (lb/guards.py), and was counted."""
    begun: Begun | None = None
    """Its first request is at a node already."""
    name: str = ""
    """The host that its client asked for when it began TLS."""
    at: float = field(default_factory=time.monotonic)
    """When it came."""
