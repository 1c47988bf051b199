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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol

from cluster import handoff
from cluster.ends import LOST_CODE, By, End
from cluster.handoff import BadPacket, Closed, Handoff, Refused, Taken
from lb.access import AccessLog, Opened
from lb.downstream import Downstream
from lb.offer import Answer, Arrival, LinkBroken, LinkLost, Lost, NotTaken, Offer, Silent, TooMuchRead, check
from lb.pool import Node, Pool

log = logging.getLogger(__name__)

ANSWER_MARGIN_S = 0.25
"""Beyond `handoff.VALID_S`: an answer that was sent in time has arrived by then."""

SILENT_S = 1.0
"""How long a node that left a handoff unanswered is not asked again, unless it says something before."""

AT_ONCE = 256
"""Packets read before everything else gets its turn."""


class HandoffMetrics(Protocol):
    def handed_over(self, node: str, seconds: float) -> None: ...

    def handed_over_closed(self, node: str, seconds: float, code: int | None) -> None: ...


@dataclass(eq=False)
class _Link:
    """Our connection to one node process' handoff socket."""

    node: Node
    sock: socket.socket
    path: str
    offers: dict[int, Offer] = field(default_factory=dict)
    """Those that the node has not answered, the oldest first."""
    watch: asyncio.TimerHandle | None = None
    taken: dict[int, tuple[float, str, Opened | None]] = field(default_factory=dict)
    """Connections that the node has: since when, in the event loop's seconds, their clients' addresses, and what the
    access log wants to know."""
    silent_since: float | None = None
    """When a handoff was given up unanswered, in the event loop's seconds, if nothing was heard since."""


class Handoffs:
    """All handoffs of this worker.  `ended` gets the address of each client whose connection has ended at its node."""

    def __init__(self, metrics: HandoffMetrics, ended: Callable[[str], None], pool: Pool, access: AccessLog) -> None:
        self._metrics = metrics
        self._access = access
        self._ended = ended
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._links: dict[Node, _Link] = {}
        self._numbers = count(1)

    def close(self) -> None:
        """Close all links.  What was handed over is the nodes'."""
        for link in list(self._links.values()):
            self._drop(link, "this worker stops")

    async def pass_on(
        self, node: Node, connection: Downstream, head: bytes, cookie: str | None, arrival: Arrival
    ) -> None:
        """Give the client of `connection` to `node`, with the rewritten `head`.

        Raises TooMuchRead, LinkBroken or another NotTaken; the connection is then as it was.
        """
        try:
            await self._try(node, connection, head, cookie, arrival)
        except LinkLost:
            # Once more, over a new link: the node may have been replaced by a process that serves.
            await self._try(node, connection, head, cookie, arrival)

    async def _try(self, node: Node, connection: Downstream, head: bytes, cookie: str | None, arrival: Arrival) -> None:
        descriptor, early = connection.hold()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        offer = None
        try:
            offer = self.offer(node, arrival, descriptor, head + early, cookie, partial(_set, answer))
            check(await answer)
        except BaseException:
            connection.release()
            if offer is not None:
                offer.forget()
            raise
        connection.give_away()

    def offer(
        self,
        node: Node,
        arrival: Arrival,
        descriptor: int,
        received: bytes,
        cookie: str | None,
        on_answer: Callable[[Answer], None],
    ) -> Offer:
        """Offer `node` the connection `descriptor` of a client: it gets a copy, the rewritten head, and what came
        behind that.

        `on_answer` is called once, later, at a time when the node either has the connection or never will.  Raises
        TooMuchRead, LinkBroken or another NotTaken when it does not even come to that.
        """
        link = self._link(node)
        if link.silent_since is not None and self._loop.time() - link.silent_since < SILENT_S:
            raise NotTaken("it has not answered the handoff before")
        if len(received) > handoff.MOST_BYTES:
            raise TooMuchRead(f"{len(received)} bytes were read already")
        opened = None if arrival.asked is None else Opened.now(arrival.asked, descriptor, received)
        number = next(self._numbers) | (0 if opened is None else handoff.COUNTED)
        valid_until_ns = time.monotonic_ns() + int(handoff.VALID_S * 1e9)
        self._send(link, Handoff(number, valid_until_ns, cookie or "", received), descriptor)
        offer = link.offers[number] = Offer(
            link.offers, number, arrival, opened, valid_until_ns / 1e9 + ANSWER_MARGIN_S, on_answer
        )
        if link.watch is None:
            self._watch(link, offer)
        return offer

    def _send(self, link: _Link, message: Handoff, descriptor: int) -> None:
        try:
            handoff.send(link.sock, message, descriptor)
        except OSError as exc:
            if handoff.is_overload(exc):
                raise NotTaken(f"its handoff socket is full: {exc.strerror}") from None
            if exc.errno == errno.EMSGSIZE:  # a host whose socket buffers are smaller than usual
                raise TooMuchRead(f"{len(message.received)} bytes do not fit in the socket's buffer") from None
            self._drop(link, _reason(exc), died=True)
            raise LinkLost(f"its handoff socket is gone: {_reason(exc)}") from None

    def _watch(self, link: _Link, oldest: Offer) -> None:
        """Look again when the oldest offer is due: one timer for all, as each is given the same time."""
        link.watch = self._loop.call_later(max(0.0, oldest.due - time.monotonic()), self._look, link)

    def _look(self, link: _Link) -> None:
        link.watch = None
        # It may be we who are late: what the node said in time is in the socket by now.
        while self._read_some(link):
            continue
        # By the clock that the node goes by, and not by the timer, which may be early.
        now = time.monotonic()
        for offer in list(link.offers.values()):
            if offer.due > now:
                self._watch(link, offer)
                return
            link.silent_since = self._loop.time()
            self._pool.failed(link.node, "it left a handoff unanswered")
            offer.settle(Silent())

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
        """Hear what the node says; return whether there may be an answer among what is left."""
        for _ in range(AT_ONCE):
            if self._links.get(link.node) is not link:
                return False
            try:
                packet, descriptors = handoff.receive(link.sock)
            except BlockingIOError:
                return False
            except OSError as exc:
                self._drop(link, _reason(exc), died=True)
                return False
            for descriptor in descriptors:  # a node never sends one
                socket.close(descriptor)
            if not packet:
                self._drop(link, "closed by the node", died=True)
                return False
            self._hear(link, packet)
            if not link.offers:
                return False
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
                if (offer := link.offers.get(number)) is not None:
                    self._count(link, offer, message)
                    offer.settle(message)
            case Closed(ends):
                for end in ends:
                    self._closed(link, end.id, end)
            case Handoff():
                self._drop(link, "a node never hands over")

    def _count(self, link: _Link, offer: Offer, answer: Taken | Refused) -> None:
        """Count a connection when its node says that it has it, as its end may be the next packet."""
        if isinstance(answer, Taken):
            arrival, now = offer.arrival, time.monotonic()
            link.taken[answer.id] = (self._loop.time(), arrival.address, offer.opened)
            link.node.handed_over += 1
            link.node.landed()
            self._metrics.handed_over(link.node.name, now - arrival.at)
            if arrival.asked is not None:
                self._access.opened(arrival.asked, link.node.name, "handoff", now - arrival.at)
            seconds = now - (offer.due - handoff.VALID_S - ANSWER_MARGIN_S)
            if 0 < self._pool.terms.slow_handshake_s < seconds:
                self._pool.failed(link.node, f"it took {seconds:.1f} s to take a handoff")
            else:
                self._pool.served(link.node)
        elif answer.reason != handoff.LEAVING:
            self._pool.failed(link.node, f"it refused a handoff: {answer.reason}")

    def _closed(self, link: _Link, number: int, end: End | None) -> None:
        """Strike a connection off the account: this was its end; with None it goes on, and we hear no more of it."""
        taken = link.taken.pop(number, None)
        if taken is None:
            return
        opened_at, address, opened = taken
        seconds, name = self._loop.time() - opened_at, link.node.name
        link.node.handed_over -= 1
        self._metrics.handed_over_closed(name, seconds, None if end is None or end.by is By.MOVED else end.code)
        self._ended(address)
        if opened is not None and end is not None:
            opened.closed(name, seconds, end)

    def _drop(self, link: _Link, reason: str, *, died: bool = False) -> None:
        """Part with a link.  If its node `died`, so have the connections that it had; else they go on."""
        self._links.pop(link.node)
        log.info("handoff link ended", extra={"node": link.node.name, "reason": reason, "open": len(link.taken)})
        self._loop.remove_reader(link.sock)
        link.sock.close()
        if link.watch is not None:
            link.watch.cancel()
        for offer in list(link.offers.values()):
            offer.settle(Lost(reason))
        for number in list(link.taken):
            self._closed(link, number, End(number, LOST_CODE, By.LOST) if died else None)


def _set(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():  # whoever waited was cancelled meanwhile
        future.set_result(answer)


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
