"""Pass a client's connection on to a node of this host, and leave the data path.

The worker keeps its copy of the descriptor until the node has taken it: whatever goes wrong before that means another
choice for the same client, which has not been sent a byte.  cluster/handoff.py has the messages and the rules.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from cluster import handoff
from cluster.handoff import BadPacket, Closed, Handoff, Refused, Taken
from lb.downstream import Downstream
from lb.errors import BalancerError
from lb.pool import Node

log = logging.getLogger(__name__)

ANSWER_MARGIN_S = 0.25
"""Beyond `handoff.VALID_S`: an answer that was sent in time has arrived by then."""

SILENT_S = 1.0
"""How long a node that left a handoff unanswered is not asked again, unless it says something before."""

AT_ONCE = 256
"""Packets read before everything else gets its turn."""


class NotTaken(BalancerError):
    """The node has not taken the connection, which is unharmed: choose another node."""


class TooMuchRead(NotTaken):
    """The client has sent so much behind its request that it does not fit in one packet."""


class LinkBroken(NotTaken):
    """There is no talking to the node's handoff socket: its tunnel is left."""


class _LinkLost(NotTaken):
    """The link ended before the node had answered, which may be said of an earlier process under its name."""


class HandoffMetrics(Protocol):
    def handed_over(self, node: str) -> None: ...

    def handed_over_closed(self, node: str, seconds: float) -> None: ...


@dataclass(frozen=True)
class _Lost:
    """Instead of an answer: the link has ended.  A node says that it takes a connection, on this very link, before it
    does; so it has not."""

    reason: str


_Answer = Taken | Refused | _Lost


@dataclass(eq=False)
class _Link:
    """Our connection to one node process' handoff socket."""

    node: Node
    sock: socket.socket
    path: str
    waiting: dict[int, asyncio.Future[_Answer]] = field(default_factory=dict)
    opened_at: dict[int, float] = field(default_factory=dict)
    """Connections that the node has, and since when, in the event loop's seconds."""
    silent_since: float | None = None
    """When a handoff was given up unanswered, in the event loop's seconds, if nothing was heard since."""


class Handoffs:
    """All handoffs of this worker."""

    def __init__(self, metrics: HandoffMetrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._links: dict[Node, _Link] = {}
        self._numbers = count(1)

    def close(self) -> None:
        """Close all links.  What was handed over is the nodes'."""
        for link in list(self._links.values()):
            self._drop(link, "this worker stops")

    async def pass_on(self, node: Node, connection: Downstream, head: bytes, cookie: str | None) -> None:
        """Give the client of `connection` to `node`, with the rewritten `head`.

        Raises TooMuchRead, LinkBroken or another NotTaken; the connection is then as it was.
        """
        try:
            await self._try(node, connection, head, cookie)
        except _LinkLost:
            # Once more, over a new link: the node may have been replaced by a process that serves.
            await self._try(node, connection, head, cookie)

    async def _try(self, node: Node, connection: Downstream, head: bytes, cookie: str | None) -> None:
        link = self._link(node)
        if link.silent_since is not None and self._loop.time() - link.silent_since < SILENT_S:
            raise NotTaken("it has not answered the handoff before")
        descriptor, early = connection.hold()
        number = next(self._numbers)
        valid_until_ns = time.monotonic_ns() + int(handoff.VALID_S * 1e9)
        answer = link.waiting[number] = self._loop.create_future()
        try:
            if len(head) + len(early) > handoff.MOST_BYTES:
                raise TooMuchRead(f"{len(head) + len(early)} bytes were read already")
            self._send(link, Handoff(number, valid_until_ns, cookie or "", head + early), descriptor)
            await self._taken(link, answer, valid_until_ns)
        except BaseException:
            connection.release()
            raise
        finally:
            link.waiting.pop(number, None)
        connection.give_away()

    def _send(self, link: _Link, message: Handoff, descriptor: int) -> None:
        try:
            handoff.send(link.sock, message, descriptor)
        except OSError as exc:
            if handoff.is_overload(exc):
                raise NotTaken(f"its handoff socket is full: {exc.strerror}") from None
            if exc.errno == errno.EMSGSIZE:  # a host whose socket buffers are smaller than usual
                raise TooMuchRead(f"{len(message.received)} bytes do not fit in the socket's buffer") from None
            self._drop(link, _reason(exc))
            raise _LinkLost(f"its handoff socket is gone: {_reason(exc)}") from None

    async def _taken(self, link: _Link, answer: asyncio.Future[_Answer], valid_until_ns: int) -> None:
        give_up_at = valid_until_ns / 1e9 + ANSWER_MARGIN_S
        # By the clock that the node goes by, not by a timer that may be early.
        while not answer.done() and (left_s := give_up_at - time.monotonic()) > 0:
            await asyncio.wait((answer,), timeout=left_s)
        if not answer.done():
            # It may be we who are late: what the node said in time is in the socket by now.
            while self._read_some(link):
                continue
        if not answer.done():
            link.silent_since = self._loop.time()
            raise NotTaken(f"no answer to a handoff within {handoff.VALID_S:g} s")
        match answer.result():
            case Refused(_, reason):
                raise NotTaken(f"it refused a handoff: {reason}")
            case _Lost(reason):
                raise _LinkLost(f"its handoff socket is gone: {reason}")

    def _link(self, node: Node) -> _Link:
        link = self._links.get(node)
        if link is not None and link.path == node.handoff:
            return link
        if link is not None:
            self._drop(link, "the node listens elsewhere")
        sock = _connected(node.handoff)
        link = self._links[node] = _Link(node, sock, node.handoff)
        self._loop.add_reader(sock, self._read_some, link)
        return link

    def _read_some(self, link: _Link) -> bool:
        """Hear what the node says; return whether there may be more."""
        for _ in range(AT_ONCE):
            if self._links.get(link.node) is not link:
                return False
            try:
                packet, descriptors = handoff.receive(link.sock)
            except BlockingIOError:
                return False
            except OSError as exc:
                self._drop(link, _reason(exc))
                return False
            for descriptor in descriptors:  # a node never sends one
                socket.close(descriptor)
            if not packet:
                self._drop(link, "closed by the node")
                return False
            self._hear(link, packet)
        return True

    def _hear(self, link: _Link, packet: bytes) -> None:
        link.silent_since = None
        try:
            message = handoff.message_in(packet)
        except BadPacket as exc:
            self._drop(link, str(exc))
            return
        match message:
            case Taken(number) | Refused(number):
                answer = link.waiting.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                    self._count(link, message)
            case Closed(ids):
                self._closed(link, ids)
            case Handoff():
                self._drop(link, "a node never hands over")

    def _count(self, link: _Link, answer: Taken | Refused) -> None:
        """Count a connection when its node says that it has it, as its end may be the next packet."""
        if isinstance(answer, Taken):
            link.opened_at[answer.id] = self._loop.time()
            link.node.handed_over += 1
            self._metrics.handed_over(link.node.name)

    def _closed(self, link: _Link, ids: tuple[int, ...]) -> None:
        now = self._loop.time()
        for number in ids:
            if (opened_at := link.opened_at.pop(number, None)) is not None:
                link.node.handed_over -= 1
                self._metrics.handed_over_closed(link.node.name, now - opened_at)

    def _drop(self, link: _Link, reason: str) -> None:
        self._links.pop(link.node)
        log.info("handoff link ended", extra={"node": link.node.name, "reason": reason, "open": len(link.opened_at)})
        self._loop.remove_reader(link.sock)
        link.sock.close()
        for answer in link.waiting.values():
            if not answer.done():
                answer.set_result(_Lost(reason))
        self._closed(link, tuple(link.opened_at))


def _connected(path: str) -> socket.socket:
    """Return a connection to the handoff socket at `path`.  Raises LinkBroken or NotTaken."""
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as exc:
        raise _unconnected(exc) from None
    try:
        sock.setblocking(False)
        sock.connect(path)
        if not handoff.is_ours(sock):
            raise LinkBroken("its handoff socket is another user's")
    except OSError as exc:
        sock.close()
        raise _unconnected(exc) from None
    except LinkBroken:
        sock.close()
        raise
    return sock


def _unconnected(exc: OSError) -> NotTaken:
    if handoff.is_overload(exc):
        return NotTaken(f"its handoff socket accepts nobody now: {_reason(exc)}")
    return LinkBroken(f"its handoff socket cannot be reached: {_reason(exc)}")


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc)  # a path that is too long has no number and no words for it
