"""What is kept for a connection that a balancer handed over: to say how it ended, and how much it carried."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Protocol

from cluster import access, tcp_info
from cluster.access import Asked, Opened
from cluster.ends import By, End
from cluster.handoff import Handoff
from cluster.proxies import TrustedProxies
from node.farewell import Fate


class Lent(Protocol):
    """All connections that were handed over to this node."""

    node: str
    count: int
    proxies: TrustedProxies
    """Those that the balancer trusts."""


class Link(Protocol):
    """Where a connection came from, and its end is told."""

    @property
    def is_widowed(self) -> bool:
        """Whether the worker has gone: nobody but us can write the last lines of what it gave us."""

    def ended(self, end: End) -> None:
        """Report it, if there still is anybody to hear."""


class Held:
    """What is kept for a connection that was handed over: to say that it has ended."""

    __slots__ = ("_began", "_is_counted", "_lent", "_link", "_number", "_opened", "_sock")

    def __init__(self, lent: Lent, link: Link, given: Handoff, sock: socket.socket) -> None:
        self._lent = lent
        self._link = link
        self._number = given.id
        self._sock = sock
        self._began = 0.0
        self._opened: Opened | None = None
        if access.is_on() and (asked := Asked.of_head(given.received, lent.proxies)) is not None:
            self._began = time.monotonic()
            self._opened = Opened.now(asked, sock.fileno(), given.received)
        self._is_counted = given.is_counted or self._opened is not None

    def ended(self, fate: Fate) -> None:
        """The connection is gone, or another process': it is counted no more, and the worker hears of it."""
        self._lent.count -= 1
        received, sent = self._carried(fate) if self._is_counted else (None, None)
        end = End(self._number, fate.code, fate.by, received, sent)
        self._link.ended(end)
        if self._opened is not None and self._link.is_widowed:
            self._opened.closed(self._lent.node, time.monotonic() - self._began, end)
        if fate.by is By.MOVED:
            return
        # Others may still hold a copy: a worker that was stopped, or a node that was asked first and hangs.
        with suppress(OSError):  # the client was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def _carried(self, fate: Fate) -> tuple[int, int] | tuple[None, None]:
        try:
            counts = tcp_info.counted(self._sock)
        except OSError:  # it is closed: it could not even be taken over
            return None, None
        return (None, None) if counts is None else (counts.received(ended=not fate.was_reset), counts.left)
