"""One plain exchange: a request goes to a node, its body behind it, and its answer back, without task or queue.

What turns out not to be plain goes on, from where it is, on the long way (lb/forward.py): the node was asked, and is
not asked again.
"""

from __future__ import annotations

import logging
import time

from lb.access import Asked
from lb.begun import Begun
from lb.chunks import BadChunk, Chunks
from lb.errors import NodeTooSlow, NodeUnreachable, OutOfResources
from lb.luggage import Luggage
from lb.passenger import Passenger
from lb.plain import MOST_HEAD_BYTES, PlainAnswer, read_answer
from lb.plain_link import PlainLink
from lb.pool import Node
from lb.route import Choice

log = logging.getLogger(__name__)


class Trip:
    """From the choice of a node to the end of its answer."""

    __slots__ = (
        "_answer",
        "_asked",
        "_began",
        "_choice",
        "_chunks",
        "_closes",
        "_is_fitting",
        "_is_head",
        "_is_over",
        "_is_paused",
        "_left",
        "_link",
        "_luggage",
        "_may_move",
        "_passenger",
        "_received",
        "_sent",
        "_size",
    )

    def __init__(
        self,
        passenger: Passenger,
        choice: Choice,
        began: float,
        *,
        is_head: bool,
        size: int,
        luggage: Luggage | None,
        may_move: bool,
    ) -> None:
        """`began` is in monotonic seconds, `size` that of the request's body in bytes; more of it may be `luggage`.

        `may_move`: the request can be made again at another node.
        """
        self._passenger = passenger
        self._choice = choice
        self._began = began
        self._is_head = is_head
        self._size = size
        self._luggage = luggage
        self._may_move = may_move
        self._asked: Asked | None = None
        self._link: PlainLink | None = None
        self._received = b""
        self._answer: PlainAnswer | None = None
        self._left = 0
        """Bytes of the body that are yet to come; of a chunked one, whether some are."""
        self._chunks: Chunks | None = None
        self._is_fitting = True
        """Whether the node has said nothing beyond its answer."""
        self._sent = 0
        """Bytes of the answer, its head included."""
        self._closes = False
        """Whether the client's connection ends with the answer."""
        self._is_paused = False
        self._is_over = False

    @property
    def is_answered(self) -> bool:
        """Whether the answer has begun."""
        return self._answer is not None

    @property
    def is_loading(self) -> bool:
        """Whether more of the body is to come, and goes to the node."""
        return self._link is not None and self._luggage is not None and not self._luggage.ended

    def begin(self, request: bytes, asked: Asked | None) -> None:
        """Send the node its `request`, on a connection that is there, or as soon as there is one."""
        yard, node = self._passenger.yard, self._choice.node
        self._asked = asked
        link = yard.upstream.idle.take((node.host, node.port))
        if link is None:
            yard.spawn(self._connect(request))
        else:
            self._board(link, request)

    async def _connect(self, request: bytes) -> None:
        yard, node = self._passenger.yard, self._choice.node
        try:
            link = await yard.upstream.connect(node)
        except NodeUnreachable as exc:
            yard.upstream.not_reached(node, str(exc))
            self._give_up()
        except OutOfResources:
            self._give_up()  # others may have let go meanwhile; if not, the long way says so
        else:
            if self._is_over:
                yard.upstream.idle.put(link)
            else:
                self._board(link, request)

    def _give_up(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._passenger.long_way(None)

    def _board(self, link: PlainLink, request: bytes) -> None:
        self._link = link
        link.rider = self
        self._choice.node.exchanges += 1
        self._passenger.waits()
        link.transport.write(request)
        if self._luggage is not None:
            self._load_on(link, self._luggage)

    def load(self, data: bytes) -> bytes:
        """Take `data` for more of the body; return what came behind that."""
        link, luggage = self._link, self._luggage
        assert link is not None, "the node was asked"
        assert luggage is not None, "there is a body"
        passes = luggage.take(data)
        if passes is None:
            self._go_on(unread=data)
            return b""
        self._size = luggage.received
        if passes:
            link.transport.write(passes)
        if luggage.ended:
            self._passenger.waits()
        self._load_on(link, luggage)
        return luggage.rest

    def _load_on(self, link: PlainLink, luggage: Luggage) -> None:
        if luggage.ended:
            return
        if link.is_full:
            luggage.hold(time.monotonic())
            self._passenger.holds()
        else:
            self._passenger.brings(luggage.wait(time.monotonic()))

    def link_paced(self) -> None:
        """Read as fast as the node takes it."""
        if self._link is not None and self._luggage is not None:
            self._load_on(self._link, self._luggage)

    def answered(self, data: bytes) -> None:
        """Take what the node says."""
        if self.is_loading:
            self._received = data
            self._go_on()
            return
        if self._answer is not None:
            try:
                self._relay(b"", self._payload(data), self._answer)
            except BadChunk as exc:
                self._end(str(exc))
            return
        if self._received:
            data = self._received + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._received = data
            if len(data) > MOST_HEAD_BYTES:
                self._go_on()
            return
        answer = read_answer(data[:end], to_head=self._is_head)
        if answer is not None:
            self._left = answer.length
            self._chunks = Chunks() if answer.chunked else None
            try:
                payload = self._payload(data[end:])
            except BadChunk:
                answer = None  # the long way has more to say of it
        if answer is None:
            self._received = data
            self._go_on()
            return
        self._answer = answer
        self._relay(self._head(answer), payload, answer)

    def _payload(self, data: bytes) -> bytes:
        """Return of `data`, which is of the body, what goes to the client.  Raises BadChunk."""
        chunks = self._chunks
        if chunks is not None:
            data = chunks.feed(data)
            self._left, self._is_fitting = int(not chunks.ended), not chunks.rest
            return data
        if len(data) > self._left:
            # More than it said: that belongs to no request, and nothing else on this connection can be trusted.
            self._is_fitting = False
            data = data[: self._left]
        self._left -= len(data)
        return data

    def _head(self, answer: PlainAnswer) -> bytes:
        """Count the answer; return what of it comes before its body."""
        yard, choice = self._passenger.yard, self._choice
        name = choice.node.name
        yard.metrics.exchange_done(name, answer.status)
        yard.metrics.answered(name, time.monotonic() - self._began)
        if answer.status < 500:
            yard.pool.served(choice.node)
        self._closes = yard.is_stopping()
        head = answer.head
        if self._closes:
            head += b"Connection: close\r\n"
        if choice.stick:
            head += b"Set-Cookie: %b\r\n" % yard.cookie_for(name).encode()
        return head + b"\r\n"

    def _relay(self, head: bytes, body: bytes, answer: PlainAnswer) -> None:
        passenger = self._passenger
        data = head + body if head else body
        self._sent += len(data)
        passenger.transport.write(data)
        if self._left:
            if head:
                passenger.streams()
            return
        link = self._off()
        if link is not None:
            # What of the request is still on its way is of no interest to a node that has answered it.
            if answer.keeps and self._is_fitting and not (self._size and link.transport.get_write_buffer_size()):
                passenger.yard.upstream.idle.put(link)
            else:
                link.close()
        self._tell(answer.status)
        passenger.arrived(close=self._closes)

    def _off(self) -> PlainLink | None:
        """End the trip; return the connection to the node, if there is one, which it no longer uses."""
        self._is_over = True
        self.resume()
        link, self._link = self._link, None
        if link is not None:
            link.rider = None
            self._choice.node.exchanges -= 1
        return link

    def link_lost(self, exc: Exception | None) -> None:
        """The node's connection has ended before its answer has."""
        if self._answer is None:
            self._go_on(lost=True, by=exc)
        else:
            self._end("the connection was lost" if exc is None else str(exc))

    def node_died(self, node: Node) -> None:
        """`node` was found dead: do not wait for its answer, if another one can give it."""
        if node is self._choice.node and self._may_move and self._answer is None and self._link is not None:
            self._go_on(lost=True, fault=f"found dead meanwhile: {node.reason}")

    def expired(self) -> None:
        """The rest of the body has not come in time, or the node has not begun its answer."""
        if self.is_loading:
            self._go_on()
        elif self._link is not None:
            limit_s = self._passenger.yard.limits.answer_timeout_s
            self._go_on(NodeTooSlow(f"no answer within {limit_s:g} s"))

    def stalled(self) -> None:
        """The client has not taken what was sent to it in time."""
        self._end("the client does not read")

    def leave(self) -> None:
        """The client has gone."""
        link = self._off()
        if link is not None:
            link.close()
        self._tell(499 if self._answer is None else self._answer.status)

    def pause(self) -> None:
        """Read no more from the node: the client does not take it."""
        if self._link is not None:
            self._is_paused = True
            self._link.transport.pause_reading()

    def resume(self) -> None:
        """Undo `pause`."""
        if self._is_paused and self._link is not None and not self._link.transport.is_closing():
            self._is_paused = False
            self._link.transport.resume_reading()

    def _go_on(
        self,
        problem: NodeTooSlow | None = None,
        *,
        lost: bool = False,
        by: Exception | None = None,
        fault: str = "",
        unread: bytes = b"",
    ) -> None:
        """Go the long way from here, with `unread` to be read first of what comes of the body.

        The answer is then a `problem`, or comes from the node, unless its connection is `lost`, `by` an error or not;
        `fault` is why it is to be given up.
        """
        link = self._off()
        assert link is not None, "the node was asked"
        if self._passenger.transport.is_closing():  # and it hears of it in a moment
            link.close()
            self._tell(499)
            return
        rest = None if self._luggage is None else self._luggage.remainder(time.monotonic())
        onward = link.to_link()
        if rest is not None:
            onward.write(rest.stand.owed)
        onward.expect("HEAD" if self._is_head else "GET")
        onward.resume(self._received)
        if fault:
            onward.give_up(fault)
        if lost:
            onward.lose(by)
        begun = Begun(self._choice, onward, problem, rest)
        self._passenger.long_way(begun, b"" if rest is None else rest.request + unread)

    def _end(self, reason: str) -> None:
        """Cut both sides short in the middle of an answer."""
        link = self._off()
        if link is not None:
            link.close()
        passenger = self._passenger
        facts = {"conn": passenger.number, "node": self._choice.node.name, "reason": reason}
        log.warning("answer broke off", extra=facts)
        assert self._answer is not None, "an answer has begun"
        self._tell(self._answer.status)
        passenger.cut()

    def _tell(self, status: int) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            node = "" if self._answer is None else self._choice.node.name
            seconds = time.monotonic() - self._began
            self._passenger.yard.access.answered(asked, node, status, seconds, self._size, self._sent)
