"""New connections, accepted and looked at once: is it the short way (lb/express.py), or ours to serve?

On a TLS port what is looked at stays in the socket, for OpenSSL to read (lb/greeter.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from cluster.proxies import TrustedProxies, canonical, parse_address
from lb.arrived import Arrived
from lb.errors import OUR_LIMITS, BadRequest, Overloaded, TooManyConnections
from lb.limits import Admission
from lb.peeking import arrival, drop, peek, take
from lb.proxy_protocol import read_header

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64
"""Connections accepted before everything else gets its turn."""

ACCEPT_AGAIN_S = 0.2
"""When accepting is tried again after there was no descriptor or no memory for it; they wait in the backlog."""

MOST_READ = 16 * 1024
"""Bytes taken at the first look.  A longer request takes the long way; what is behind it stays in the socket."""

DEFER_S = 1
"""How long the kernel may wait for a connection's first bytes before it shows us one that is silent."""


def defer_accept(sock: socket.socket) -> None:
    """Let the kernel show us connections when there is something to read (TCP_DEFER_ACCEPT, tcp(7)), if it can."""
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_S)


class Way(Protocol):
    """A way that connections may go."""

    reads: bool
    """Whether it is given what a connection begins with, or only shown it."""

    def send(self, arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None]) -> Arrived | None:
        """Return None if `arrived` is taken, and call either of the two later, or neither; else return it."""


class Straight:
    """No way but ours."""

    reads = True

    def send(self, arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None]) -> Arrived | None:
        return arrived


class Arrivals:
    """Accepts on `listening`, which it takes over.

    Connections are offered to `way` first; `serve` gets those that it leaves or gives back.
    Each connection of `proxies` begins with a PROXY protocol header, waited for no longer than a request's head.
    """

    def __init__(
        self,
        listening: socket.socket,
        admission: Admission,
        way: Way,
        serve: Callable[[Arrived], None],
        *,
        proxies: TrustedProxies,
        head_timeout_s: float,
        rejected: Callable[[str], None],
    ) -> None:
        self._listening = listening
        self._admission = admission
        self._way = way
        self._serve = serve
        self._proxies = proxies
        self._head_timeout_s = head_timeout_s
        self._rejected = rejected
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._is_short = False
        self._introducing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        self._again = None
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept no more.  What waits in the backlog is whoever else's who has the listening socket."""
        if self._again is not None:
            self._again.cancel()
        elif self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
        self._listening.close()
        for task in self._introducing:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause(exc)
                return
            self._is_short = False
            self._look_at(sock, canonical(address[0]))

    def _pause(self, exc: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            wanting = OUR_LIMITS.get(exc.errno or 0, exc.strerror)
            log.error("connections wait to be accepted: out of %s", wanting)
        self._loop.remove_reader(self._listening)
        self._again = self._loop.call_later(ACCEPT_AGAIN_S, self.open)

    def _look_at(self, sock: socket.socket, peer: str) -> None:
        if not self._admission.admit():
            self._serve(Arrived(sock, peer, b"", Overloaded(self._admission.limit)))
        elif self._proxies.networks and parse_address(peer) in self._proxies:
            self._introduce(sock, peer)
        else:
            self._take(sock, peer)

    def _introduce(self, sock: socket.socket, proxy: str) -> None:
        """Take a connection of `proxy` for its client's, when its header is there."""
        try:
            if not self._is_introduced(sock, proxy, peek(sock)):
                task = self._loop.create_task(self._introduction(sock, proxy))
                self._introducing.add(task)
                task.add_done_callback(self._introducing.discard)
        except OSError:
            self._let_go(sock)

    async def _introduction(self, sock: socket.socket, proxy: str) -> None:
        received = b""
        try:
            async with asyncio.timeout(self._head_timeout_s):
                while not self._is_introduced(sock, proxy, received):
                    received = await arrival(sock, len(received) + 1)
        except OSError:  # among them TimeoutError
            self._let_go(sock)
        except asyncio.CancelledError:
            self._let_go(sock)
            raise

    def _is_introduced(self, sock: socket.socket, proxy: str, received: bytes) -> bool:
        """Return whether a header is there, good or bad, and go on with the connection then.  Raises OSError."""
        try:
            header = read_header(received)
        except BadRequest as exc:
            log.info("connection refused", extra={"peer": proxy, "reason": str(exc)})
            self._rejected("bad_request")
            self._let_go(sock)
            return True
        if header is None:
            return False
        # What is behind it may be for others to read.
        take(sock, header.size)
        self._take(sock, header.client or proxy)
        return True

    def _let_go(self, sock: socket.socket) -> None:
        drop(sock)
        self._admission.hand_over()

    def _take(self, sock: socket.socket, client: str) -> None:
        try:
            received = take(sock, MOST_READ) if self._way.reads else peek(sock)
        except OSError:
            self._let_go(sock)
            return
        if not self._admission.enter(client):
            self._admission.hand_over()
            self._serve(Arrived(sock, client, received, TooManyConnections(client)))
            return
        ours = self._way.send(Arrived(sock, client, received), self._admission.hand_over, self._serve)
        if ours is not None:
            self._serve(ours)
