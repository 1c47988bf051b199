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

AT_ONCE = 256
"""Packets read before everything else gets its turn."""

_OVERLOADED = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE, errno.EAGAIN})


class NotTaken(BalancerError):
    """The node has not taken the connection, which is unharmed: choose another node."""


class NodeBusy(NotTaken):
    """The node does not keep up with its handoffs, or the kernel has no room for more in flight: not broken."""


class TooMuchRead(NotTaken):
    """The client has sent so much behind its request that it does not fit in one packet."""


class LinkBroken(NotTaken):
    """There is no talking to the node's handoff socket: its tunnel is left."""


class HandoffMetrics(Protocol):
    def handed_over(self, node: str) -> None: ...

    def handed_over_closed(self, node: str, seconds: float) -> None: ...


@dataclass(eq=False)
class _Link:
    """Our connection to one node process' handoff socket."""

    node: Node
    sock: socket.socket
    path: str
    waiting: dict[int, asyncio.Future[Taken | Refused]] = field(default_factory=dict)
    opened_at: dict[int, float] = field(default_factory=dict)
    """Connections that the node has, and since when, in the event loop's seconds."""


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

        Raises NodeBusy, LinkBroken or NotTaken; the connection is then as it was.
        """
        link = self._link(node)
        descriptor, early = connection.hold()
        number = next(self._numbers)
        valid_until_ns = time.monotonic_ns() + int(handoff.VALID_S * 1e9)
        answer = link.waiting[number] = self._loop.create_future()
        try:
            if len(head) + len(early) > handoff.MOST_BYTES:
                raise TooMuchRead(f"{len(head) + len(early)} bytes were read already")
            self._send(link, Handoff(number, valid_until_ns, cookie or "", head + early), descriptor)
            await self._taken(link, answer)
        except BaseException:
            connection.release()
            raise
        finally:
            link.waiting.pop(number, None)
        link.opened_at[number] = self._loop.time()
        node.handed_over += 1
        self._metrics.handed_over(node.name)
        connection.give_away()

    def _send(self, link: _Link, message: Handoff, descriptor: int) -> None:
        try:
            handoff.send(link.sock, message, descriptor)
        except OSError as exc:
            if isinstance(exc, BlockingIOError) or exc.errno in _OVERLOADED:
                raise NodeBusy(f"its handoff socket is full: {exc.strerror}") from None
            self._drop(link, exc.strerror or str(exc))
            raise LinkBroken(f"its handoff socket is gone: {exc.strerror}") from None

    async def _taken(self, link: _Link, answer: asyncio.Future[Taken | Refused]) -> None:
        try:
            async with asyncio.timeout(handoff.VALID_S + ANSWER_MARGIN_S):
                said = await asyncio.shield(answer)
        except TimeoutError:
            # It may be we who were late: what the node said in time is in the socket by now.
            self._on_readable(link)
            if not answer.done():
                raise NodeBusy(f"no answer to a handoff within {handoff.VALID_S:g} s") from None
            said = answer.result()
        if isinstance(said, Refused):
            raise NotTaken(f"it refused a handoff: {said.reason}")

    def _link(self, node: Node) -> _Link:
        link = self._links.get(node)
        if link is not None and link.path == node.handoff:
            return link
        if link is not None:
            self._drop(link, "the node listens elsewhere")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(node.handoff)
        except OSError as exc:
            sock.close()
            if isinstance(exc, BlockingIOError) or exc.errno in _OVERLOADED:
                raise NodeBusy(f"its handoff socket accepts nobody now: {exc.strerror}") from None
            raise LinkBroken(f"its handoff socket cannot be reached: {exc.strerror}") from None
        if not handoff.is_ours(sock):
            sock.close()
            raise LinkBroken("its handoff socket is another user's")
        link = self._links[node] = _Link(node, sock, node.handoff)
        self._loop.add_reader(sock, self._on_readable, link)
        return link

    def _on_readable(self, link: _Link) -> None:
        for _ in range(AT_ONCE):
            if self._links.get(link.node) is not link:
                return
            try:
                packet, descriptors = handoff.receive(link.sock)
            except BlockingIOError:
                return
            except OSError as exc:
                self._drop(link, exc.strerror or str(exc))
                return
            for descriptor in descriptors:  # a node never sends one
                socket.close(descriptor)
            if not packet:
                self._drop(link, "closed by the node")
                return
            self._hear(link, packet)

    def _hear(self, link: _Link, packet: bytes) -> None:
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
            case Closed(ids):
                self._closed(link, ids)
            case Handoff():
                self._drop(link, "a node never hands over")

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
                # The node says that it has taken a connection before it does, on this very link: it has not.
                answer.set_exception(LinkBroken(f"its handoff socket is gone: {reason}"))
        self._closed(link, tuple(link.opened_at))
