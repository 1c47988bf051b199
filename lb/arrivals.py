"""New connections, accepted and looked at once: is it the short way (lb/express.py), or ours to serve?"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from lb.affinity import TrustedProxies, canonical, parse_address
from lb.arrived import Arrived
from lb.errors import OUR_LIMITS, BadRequest, Overloaded, TooManyConnections
from lb.express import Express
from lb.limits import Admission
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


class Arrivals:
    """Accepts on `listening`, which it takes over.

    `serve` gets each connection that does not go the short way.
    Each connection of `proxies` begins with a PROXY protocol header, waited for no longer than a request's head.
    """

    def __init__(
        self,
        listening: socket.socket,
        admission: Admission,
        express: Express,
        serve: Callable[[Arrived], None],
        *,
        proxies: TrustedProxies,
        head_timeout_s: float,
        rejected: Callable[[str], None],
    ) -> None:
        self._listening = listening
        self._admission = admission
        self._express = express
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
            return
        proxied = bool(self._proxies.networks) and parse_address(peer) in self._proxies
        try:
            received = sock.recv(MOST_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            received = b""
        except OSError:
            self._let_go(sock)
            return
        else:
            if not received:  # it has come and gone
                self._let_go(sock)
                return
        if proxied:
            self._introduce(sock, peer, received, self._loop.time() + self._head_timeout_s)
        else:
            self._take(sock, peer, received)

    def _introduce(self, sock: socket.socket, proxy: str, received: bytes, deadline: float) -> None:
        """Take a connection of `proxy` for its client's; the rest of the header may come until `deadline`."""
        try:
            header = read_header(received)
        except BadRequest as exc:
            log.info("connection refused", extra={"peer": proxy, "reason": str(exc)})
            self._rejected("bad_request")
            self._let_go(sock)
            return
        if header is None:
            self._wait(sock, proxy, received, deadline)
        else:
            self._take(sock, header.client or proxy, received[header.size :])

    def _wait(self, sock: socket.socket, proxy: str, received: bytes, deadline: float) -> None:
        sock.setblocking(False)
        task = self._loop.create_task(self._read_on(sock, proxy, received, deadline))
        self._introducing.add(task)
        task.add_done_callback(self._introducing.discard)

    async def _read_on(self, sock: socket.socket, proxy: str, received: bytes, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                more = await self._loop.sock_recv(sock, MOST_READ)
        except (OSError, TimeoutError):
            more = b""
        except asyncio.CancelledError:
            self._let_go(sock)
            raise
        if more:
            self._introduce(sock, proxy, received + more, deadline)
        else:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        sock.close()
        self._admission.hand_over()

    def _take(self, sock: socket.socket, client: str, received: bytes) -> None:
        if not self._admission.enter(client):
            self._admission.hand_over()
            self._serve(Arrived(sock, client, received, TooManyConnections(client)))
            return
        ours = self._express.send(Arrived(sock, client, received), self._admission.hand_over, self._serve)
        if ours is not None:
            self._serve(ours)
