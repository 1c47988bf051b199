"""Connections that a balancer on this host hands over: each comes as an open descriptor, its request read already.

From then on this node talks to the client alone; the balancer may die without anybody noticing.  node/arrival.py has
what becomes of a connection, cluster/handoff.py the messages and the rules.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from pathlib import Path

from aiohttp import web

from cluster import handoff
from cluster.ends import End
from cluster.handoff import BadPacket, Closed, Handoff, Refused, Taken
from cluster.proxies import TrustedProxies
from node.arrival import Arrival, Shortcut
from node.farewell import lost
from node.held import Held

log = logging.getLogger(__name__)

BACKLOG = 64
ACCEPT_AGAIN_S = 1.0
"""When links are accepted again after there was no room for one."""

AT_ONCE = 64
"""Packets read before everything else gets its turn."""


class Adoption:
    """The handoff socket of one node, at `path` in a directory that only our user can enter.

    `proxies` are those that the balancer trusts.
    """

    def __init__(
        self,
        path: Path,
        server: web.Server,
        tasks: asyncio.TaskGroup,
        shortcut: Shortcut | None = None,
        proxies: TrustedProxies = TrustedProxies(),  # noqa: B008  frozen
    ) -> None:
        self.path = path
        self.node, self.proxies = path.stem, proxies
        self._server = server
        self._shortcut = shortcut
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._links: set[_Link] = set()
        self._refused_for = ""
        self.leaving = False
        self.count = 0
        """Connections that were handed over and are open now."""

    def open(self) -> None:
        """Listen.  Raises OSError."""
        # A node of our name that was killed leaves its socket's file behind; it cannot listen there any more, since we
        # have its port.
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.setblocking(False)
            listener.bind(str(self.path))
            os.chmod(self.path, 0o600)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Take no more connections; those that were taken stay."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        for link in list(self._links):
            link.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            # Out of descriptors, most likely: overloaded, not broken.  The balancer waits in the backlog, and gives its
            # clients to others meanwhile.
            log.warning("handoff link not accepted", extra={"reason": exc.strerror})
            self._loop.remove_reader(listener)
            self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listener)
            return
        if not handoff.is_ours(sock):
            log.warning("handoff link refused: another user")
            sock.close()
            return
        sock.setblocking(False)
        self._links.add(_Link(self, sock, self._loop))

    def _accept_again(self, listener: socket.socket) -> None:
        if self._listener is listener:
            self._loop.add_reader(listener, self._accept, listener)

    def refused(self, reason: str) -> None:
        """Log why connections are not taken: once in a row, as a balancer may bring many."""
        if reason != self._refused_for:
            log.log(logging.INFO if self.leaving else logging.WARNING, "handoff refused", extra={"reason": reason})
        self._refused_for = reason

    def forget(self, link: _Link) -> None:
        self._links.discard(link)

    def adopt(self, given: Handoff, sock: socket.socket, link: _Link) -> None:
        """Serve the connection `sock`, which this takes over."""
        self.count += 1
        self._refused_for = ""
        self._tasks.create_task(self._adopt(given, sock, link))

    async def _adopt(self, given: Handoff, sock: socket.socket, link: _Link) -> None:
        held = Held(self, link, given, sock)
        arrival = Arrival(self._server, self._shortcut, given, held.ended)
        try:
            await self._loop.connect_accepted_socket(lambda: arrival, sock)
        except OSError as exc:
            log.info("connection lost while it was handed over", extra={"reason": exc.strerror})
            held.ended(lost(exc))
            sock.close()


class _Link:
    """A balancer worker's connection to our handoff socket."""

    def __init__(self, adoption: Adoption, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._adoption = adoption
        self._sock = sock
        self._loop = loop
        self._ended: list[End] = []
        self._flushing = self._waiting = self._closed = False
        self.is_widowed = False
        """Whether the worker has gone: nobody else writes the last lines of what it gave us."""
        loop.add_reader(sock, self._on_readable)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._adoption.forget(self)

    def _lose(self) -> None:
        self.is_widowed = True
        self.close()

    def ended(self, end: End) -> None:
        """Report the end of a connection: together with those that end in the same turn of the event loop."""
        if self._closed:
            return
        self._ended.append(end)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _on_readable(self) -> None:
        for _ in range(AT_ONCE):
            if self._closed:
                return
            try:
                packet, descriptors = handoff.receive(self._sock)
            except BlockingIOError:
                return
            except OSError as exc:
                log.warning("handoff link lost", extra={"reason": exc.strerror})
                self._lose()
                return
            if not packet:
                self._lose()  # The worker ended; what it gave us is ours.
                return
            self._take(packet, descriptors)

    def _take(self, packet: bytes, descriptors: list[int]) -> None:
        try:
            given = handoff.message_in(packet)
            if not isinstance(given, Handoff):
                raise BadPacket(f"a worker never says {type(given).__name__}")
        except BadPacket as exc:
            log.error("handoff link closed", extra={"reason": str(exc)})
            _close_all(descriptors)
            self.close()
            return
        sock = _connection_in(descriptors)
        reason = self._objection(given)
        if sock is None:
            # The kernel drops a descriptor for which this process has no room (unix(7)).
            reason = "not one connection" if descriptors else "out of descriptors (ulimit -n, LimitNOFILE)"
        if sock is None or reason:
            self._adoption.refused(reason)
            if sock is not None:
                sock.close()
            self._say(Refused(given.id, reason))
            return
        sock.setblocking(False)
        # First the answer: nothing may be written to the client as long as the worker may give it to somebody else.
        if not self._say(Taken(given.id)):
            sock.close()
        elif time.monotonic_ns() > given.valid_until_ns:
            # We were stopped just before we said it: the worker may have given up.
            sock.close()
            self.ended(End(given.id))
        else:
            self._adoption.adopt(given, sock, self)

    def _objection(self, given: Handoff) -> str:
        if self._adoption.leaving:
            return handoff.LEAVING
        if time.monotonic_ns() > given.valid_until_ns:
            return "read too late"
        return ""

    def _say(self, message: Taken | Refused) -> bool:
        try:
            handoff.send(self._sock, message)
        except OSError as exc:
            if handoff.is_overload(exc):
                # It will find the handoff unanswered, and we have not taken it.
                log.warning("handoff not answered: the worker does not read", extra={"reason": exc.strerror})
            else:
                log.info("handoff link lost", extra={"reason": exc.strerror})
                self._lose()
            return False
        return True

    def _flush(self) -> None:
        self._flushing = False
        while self._ended and not self._closed:
            some = tuple(self._ended[: handoff.MOST_CLOSED_IN_ONE])
            try:
                handoff.send(self._sock, Closed(some))
            except BlockingIOError:
                if not self._waiting:
                    self._waiting = True
                    self._loop.add_writer(self._sock, self._on_writable)
                return
            except OSError as exc:
                log.info("handoff link lost", extra={"reason": exc.strerror})
                self._lose()
                return
            del self._ended[: len(some)]

    def _on_writable(self) -> None:
        self._waiting = False
        self._loop.remove_writer(self._sock)
        self._flush()


def _connection_in(descriptors: list[int]) -> socket.socket | None:
    """Return the client's connection, if that is what `descriptors` are; else close them."""
    if len(descriptors) != 1:
        _close_all(descriptors)
        return None
    try:
        sock = socket.socket(fileno=descriptors[0])
    except OSError:  # no socket at all
        _close_all(descriptors)
        return None
    if sock.type == socket.SOCK_STREAM:
        return sock
    sock.close()
    return None


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
