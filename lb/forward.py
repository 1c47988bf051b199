"""One HTTP exchange: the request to a node, its answer to the client, both streamed as they come.

Nothing is buffered beyond what the other side can take: each side's back-pressure reaches the other.  A client that
goes away cancels the exchange; a node that goes away in the middle of its answer ends the client's connection hard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from aiohttp import ClientPayloadError
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from cluster.config import Endpoint, Lb
from lb.begun import Begun
from lb.chunks import LAST_CHUNK
from lb.errors import BalancerError, NodeFailed, NodeTooSlow, NoNodeAvailable, NotForwarded, NotReached
from lb.exchange import SAFE, Exchange, Sent
from lb.guards import BodyLimits
from lb.headers import answer_head, framing, request_head, tokens
from lb.link import Link
from lb.pool import Node, Pool
from lb.route import By, Choice, Router
from lb.strict import check_answer
from lb.upload import Upload, chunk, may_be_passed_over, running, whole
from lb.upstream import Upstream

log = logging.getLogger(__name__)

MOST_INTERIM = 100
"""1xx before an answer; a node that says more has gone mad, and its heads are not to fill our memory."""


class ExchangeMetrics(Protocol):
    def exchange_done(self, node: str, status: int) -> None: ...

    def answered(self, node: str, seconds: float) -> None: ...

    def rejected(self, reason: str) -> None: ...


@dataclass(frozen=True)
class Answer:
    """A node's answer, read up to the end of its head."""

    choice: Choice
    link: Link
    message: RawResponseMessage
    body: StreamReader
    upload: Upload | None
    asked_at: float
    """When this node was asked, in monotonic seconds: others may have been asked before."""

    @property
    def status(self) -> int:
        return self.message.code


class Forwarder:
    """Asks nodes, and relays what they answer."""

    def __init__(self, pool: Pool, router: Router, upstream: Upstream, metrics: ExchangeMetrics, limits: Lb) -> None:
        self._pool = pool
        self._router = router
        self._upstream = upstream
        self._metrics = metrics
        self._answer_timeout_s = limits.answer_timeout_s or None
        self._idle_timeout_s = limits.idle_timeout_s
        self._body_limits = BodyLimits.of(limits)

    async def forward(self, exchange: Exchange, first: Choice | None = None) -> Sent:
        """Carry one exchange, to the node of `first` if it can be reached.

        Raises BalancerError while nothing of the answer was sent.
        """
        async with self.asked(exchange, first=first) as answer:
            if answer.status == 101:
                raise self._failed(exchange, answer.choice, NodeFailed("switched protocols without being asked"))
            return await self.relay(exchange, answer)

    @asynccontextmanager
    async def asked(
        self, exchange: Exchange, *, websocket: bool = False, first: Choice | None = None
    ) -> AsyncIterator[Answer]:
        """Send the request to a node and hold its answer; the upload may go on meanwhile.

        `first` is a choice that was made already; if that node cannot be reached, another one is made here, or for a
        WebSocket by the caller, to whom NotReached leaves it.

        Raises NoNodeAvailable, NodeFailed, NodeTooSlow, BadRequest, ClientTooSlow or NotForwarded.
        """
        chunked = _is_chunked(exchange)
        tried: set[str] = set()
        again = exchange.method in SAFE and exchange.body.at_eof()
        failure: BalancerError | None = None
        begun = exchange.begun
        while True:
            try:
                if begun is not None:
                    choice, link = begun.choice, begun.link
                else:
                    choice, link = await self._reach(exchange, tried, None if failure else first, fresh=websocket)
            except NoNodeAvailable:
                if failure is not None:
                    raise failure from None
                raise
            answer, asked_at = None, self._pool.clock()
            try:
                with self._pool.carrying(choice.node), self._upstream.holding(link):
                    async with self._sent(exchange, link, begun, chunked=chunked, websocket=websocket) as upload:
                        with self._while_alive(exchange, choice.node, link):
                            answer = Answer(choice, link, *await self._head(exchange, link, upload), upload, asked_at)
                        yield answer
                        return
            except (NodeFailed, NodeTooSlow) as exc:
                if answer is not None:
                    raise
                self._failed(exchange, choice, exc)
                # A request that was being read while its node was killed is not worth an error page.  Once only: a
                # request that kills nodes must not go round.  A session lives on its own node, or nowhere.
                if isinstance(exc, NodeTooSlow) or not again or (exchange.client.sid and not link.reused):
                    raise
                again, failure, begun = False, exc, None
                if not link.reused:
                    tried.add(choice.node.name)

    def judge(self, answer: Answer, fault: str = "") -> None:
        """Count how the node that answered a WebSocket upgrade treated its client."""
        node, seconds = answer.choice.node, self._pool.clock() - answer.asked_at
        slow_s = self._pool.terms.slow_handshake_s
        if fault:
            self._pool.failed(node, fault)
        elif answer.status >= 500:
            self._pool.failed(node, f"it answered a WebSocket upgrade with {answer.status}")
        elif slow_s and seconds > slow_s:
            self._pool.failed(node, f"a WebSocket upgrade took {seconds:.1f} s")
        else:
            self._pool.served(node)

    async def relay(self, exchange: Exchange, answer: Answer) -> Sent:
        """Send `answer` to the client.  Raises NodeFailed while nothing of it was sent."""
        message, node = answer.message, answer.choice.node.name
        if tokens(message.raw_headers, b"transfer-encoding") - {b"chunked"}:
            raise self._failed(exchange, answer.choice, NodeFailed("a transfer coding other than chunked"))
        close = not exchange.keeps_alive or not exchange.body.is_eof()
        frame = framing(exchange.method, message.code, exchange.version, message.raw_headers, close=close)
        cookie = exchange.cookie_for(node) if answer.choice.stick else None
        head = answer_head(message.code, message.reason, message.raw_headers, frame, exchange.version, cookie)
        self._metrics.exchange_done(node, message.code)
        self._metrics.answered(node, time.monotonic() - exchange.began)
        if message.code < 500:
            self._pool.served(answer.choice.node)
        try:
            await _stream(exchange, head, answer.body, chunked=frame.chunked, idle_timeout_s=self._idle_timeout_s)
        except ConnectionError:
            return Sent(
                keep_alive=False, status=message.code, node=node
            )  # The client is gone, and the link is not kept.
        except ClientPayloadError as exc:
            problem = answer.upload.problem if answer.upload is not None else None
            if problem is not None:
                self._metrics.rejected(problem.counted_as)
            return self._broke_off(exchange, answer, str(problem or exc))
        except TimeoutError:
            return self._broke_off(exchange, answer, "the client does not read")
        if answer.link.was_reset:
            return self._broke_off(exchange, answer, "reset")
        is_sent = answer.upload is None or answer.upload.done
        answer.link.keep = is_sent and not may_be_passed_over(exchange.method, exchange.headers)
        return Sent(keep_alive=not frame.close, status=message.code, node=node)

    async def _reach(
        self, exchange: Exchange, tried: set[str], first: Choice | None, *, fresh: bool
    ) -> tuple[Choice, Link]:
        def route(tried: set[str]) -> Choice:
            if first is not None:
                if first.node.name not in tried:
                    return first
                if fresh:
                    raise NotReached(known=len(self._pool.nodes), tried=len(tried))
            return self._router.route(self._pool, exchange.client, tried)

        choice, link = await self._upstream.reach(route, tried, fresh=fresh)
        if choice is not first and choice.by is By.POLICY:
            choice.node.placed += 1
        return choice, link

    def _sent(
        self, exchange: Exchange, link: Link, begun: Begun | None, *, chunked: bool, websocket: bool
    ) -> AbstractAsyncContextManager[Upload | None]:
        """Send the head, and the body: at once if it is here, else alongside the block that this is entered for.

        Of what has `begun` only what remains.  Raises NodeTooSlow if that was waited for long enough.
        """
        if begun is not None:
            if begun.problem is not None:
                raise begun.problem
            rest = begun.remainder
            if rest is None or rest.is_over:
                return nullcontext()
            return running(Upload(exchange.body, link, chunked=chunked, limits=self._body_limits, remainder=rest))
        link.expect(exchange.method)
        head = request_head(
            exchange.method,
            exchange.target,
            exchange.headers,
            exchange.via,
            host=str(Endpoint(*link.address)),
            chunked=chunked,
            websocket=websocket,
        )
        if exchange.body.is_eof():
            link.write(head + whole(exchange.body, chunked=chunked))
            return nullcontext()
        link.write(head)
        return running(Upload(exchange.body, link, chunked=chunked, limits=self._body_limits))

    def _while_alive(self, exchange: Exchange, node: Node, link: Link) -> AbstractContextManager[None]:
        """Wait no longer than the node lives, if the request can be made elsewhere: a session cannot."""
        if exchange.method in SAFE and exchange.body.at_eof() and not exchange.client.sid:
            return self._upstream.awaiting(node, link)
        return nullcontext()

    async def _head(
        self, exchange: Exchange, link: Link, upload: Upload | None
    ) -> tuple[RawResponseMessage, StreamReader]:
        loop, limit_s = asyncio.get_running_loop(), self._answer_timeout_s
        try:
            async with asyncio.timeout(None if upload else limit_s) as deadline:
                if upload is not None and limit_s is not None:
                    upload.on_end = lambda: deadline.reschedule(loop.time() + limit_s)
                for _ in range(MOST_INTERIM + 1):
                    message, body = await link.answer()
                    check_answer(
                        message.code, message.reason, message.version, message.raw_headers, chunked=message.chunked
                    )
                    if message.code >= 200 or message.code == 101:
                        return message, body
                    await _interim(exchange, message)
                raise NodeFailed(f"more than {MOST_INTERIM} interim answers")
        except TimeoutError:
            raise NodeTooSlow(f"no answer within {limit_s:g} s") from None
        except NodeFailed:
            if upload is not None and upload.problem is not None:
                raise upload.problem from None
            raise
        finally:
            if upload is not None:
                upload.on_end = lambda: None

    def _failed(self, exchange: Exchange, choice: Choice, exc: BalancerError) -> BalancerError:
        self._metrics.exchange_done(choice.node.name, exc.http_status)
        self._pool.failed(choice.node, str(exc))
        log.warning("node failed", extra=_facts(exchange, choice, str(exc)))
        return exc

    def _broke_off(self, exchange: Exchange, answer: Answer, reason: str) -> Sent:
        log.warning("answer broke off", extra=_facts(exchange, answer.choice, reason))
        return exchange.cut(answer.status, answer.choice.node.name)


def _facts(exchange: Exchange, choice: Choice, reason: str) -> dict[str, object]:
    return {"conn": exchange.connection, "node": choice.node.name, "trace": exchange.trace, "reason": reason}


def _is_chunked(exchange: Exchange) -> bool:
    """Tell how the request's body is framed.  Raises NotForwarded."""
    if exchange.method in ("CONNECT", "TRACE"):
        # TRACE would show its client what we and others before us have added, and cookies that no script may see.
        raise NotForwarded(exchange.method)
    codings = tokens(exchange.headers, b"transfer-encoding")
    if codings - {b"chunked"}:
        # RFC 9112 6.1: a server that does not understand a transfer coding answers 501.
        raise NotForwarded("a transfer coding other than chunked")
    return bool(codings)


async def _interim(exchange: Exchange, message: RawResponseMessage) -> None:
    """Pass a 1xx on (RFC 9110 15.2): a client may be waiting for its 100 before it sends its body.

    Raises ConnectionError.
    """
    if exchange.version < (1, 1):
        return
    frame = framing(exchange.method, message.code, exchange.version, (), close=False)
    head = answer_head(message.code, message.reason, message.raw_headers, frame, exchange.version, None)
    # Never waiting: what the node goes on to say meanwhile would pile up, as heads have no back-pressure of aiohttp's.
    await exchange.writer.write(head, drain=False)


async def _stream(exchange: Exchange, head: bytes, body: StreamReader, *, chunked: bool, idle_timeout_s: float) -> None:
    """Send the head and the body, each piece as it comes.

    Raises ConnectionError, ClientPayloadError, or TimeoutError if the client takes nothing for `idle_timeout_s`.
    """
    writer = exchange.writer
    data, out = body.read_nowait(), head
    while True:
        if data:
            out += chunk(data) if chunked else data
        if (ended := body.at_eof()) and chunked:
            out += LAST_CHUNK
        await writer.write(out, drain=False)
        if exchange.request.protocol.writing_paused:
            async with asyncio.timeout(idle_timeout_s):
                await writer.drain()
        if ended:
            break
        data, out = await body.readany(), b""
