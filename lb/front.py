"""A request arrives: clients are accepted, their requests read, and each goes its way; errors become answers here."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

from aiohttp.http import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web import BaseRequest

from cluster.config import Config
from cluster.proxies import TrustedProxies
from cluster.trace import made
from lb.access import AccessLog
from lb.affinity import Recogniser, set_cookie
from lb.arrivals import Arrivals, defer_accept
from lb.crowd import Crowd
from lb.downstream import Downstream, DownstreamLimits
from lb.downstreams import Downstreams
from lb.errors import BadRequest, BalancerError, BodyTooLarge, ClientTooSlow, answer_to
from lb.exchange import Exchange, Sent
from lb.express import Express
from lb.farewell import LINGER_S
from lb.forward import ExchangeMetrics, Forwarder
from lb.greeter import Greeter
from lb.guards import Guards
from lb.handoff import HandoffMetrics, Handoffs
from lb.headers import Headers, Via, asks_for_unknown, is_websocket_upgrade
from lb.keepalive import keep_alive
from lb.limits import Admission
from lb.pool import Node, Pool
from lb.reception import Reception
from lb.redirect import Redirect
from lb.route import Router
from lb.shuttle import take_over
from lb.strict import read_strictly
from lb.tls import Tls
from lb.tunnel import TunnelMetrics, Tunnels
from lb.turnstile import Turnstile
from lb.upgrade import Upgrades
from lb.upstream import ConnectMetrics, Upstream
from lb.yard import Yard

log = logging.getLogger(__name__)


class FrontMetrics(ExchangeMetrics, TunnelMetrics, HandoffMetrics, ConnectMetrics, Protocol):
    def redirected(self) -> None: ...


class Front:
    """The public side of one worker.  Must be made inside a running event loop."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        metrics: FrontMetrics,
        *,
        most_connections: int,
        tls: Tls | None = None,
        base: Path = Path(),
    ) -> None:
        lb = self._lb = config.lb
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._metrics = metrics
        self._recogniser = Recogniser.of(config)
        self._secure = tls is not None
        cookie = lb.cookie.model_copy(update={"secure": True}) if self._secure else lb.cookie
        self._cookie_for: Callable[[str], str] = lru_cache(maxsize=1024)(
            lambda slot: set_cookie(config.cookie_name, cookie, slot, self._recogniser.secret)
        )
        self._access = AccessLog(self._recogniser.proxies)
        self._trace = made if lb.traceparent == "make" else bytes
        self._stopping = False
        self._empty = asyncio.Event()
        self._guards = Guards(lb, pool.terms.share, pool.clock)
        self._admission = Admission(
            most_connections,
            lb.connections_per_address,
            brings_others=self._recogniser.trusts,
            on_empty=self._empty.set,
        )
        self._upstream = Upstream(pool, metrics, lb.connect_timeout_s)
        router = Router.of(lb)
        self._forwarder = Forwarder(pool, router, self._upstream, metrics, lb)
        self._tunnels = Tunnels(self._forwarder, metrics, self._admission.leave, lb.tunnel_idle_s, self._access)
        self._handoffs = Handoffs(metrics, self._admission.ended, pool, self._access)
        self._turnstile = Turnstile(pool, router, lb, pool.terms.share)
        self._upgrades = Upgrades(pool, self._turnstile, self._handoffs, self._tunnels)
        self._express = Express(
            self._recogniser,
            self._guards,
            self._turnstile,
            self._handoffs,
            self._cookie_for,
            self._trace,
            self._access,
            self._admission,
        )
        self._limits = DownstreamLimits(
            admission=self._admission,
            head=self._guards.head,
            head_timeout_s=lb.head_timeout_s,
            idle_timeout_s=lb.idle_timeout_s,
            rejected=metrics.rejected,
            access=self._access,
        )
        downstreams = Downstreams(self._serve, self._limits)
        self._yard = Yard(
            pool,
            self._guards,
            self._turnstile,
            self._recogniser,
            self._upstream,
            metrics,
            self._access,
            self._admission,
            lb,
            self._cookie_for,
            self._trace,
            lambda: self._stopping,
            downstreams.take_over,
            secure=self._secure,
        )
        self._reception = Reception(downstreams, self._yard, tls)
        challenges = base / lb.tls.challenges if lb.tls.challenges else None
        redirects = bool(lb.tls.redirect)
        self._redirect = Redirect(self._limits, self._check, metrics.redirected, challenges) if redirects else None
        self._greeter = Greeter(self._admission, lb.head_timeout_s, metrics.rejected) if tls else None
        self._arrivals: Arrivals | None = None

    @property
    def connections(self) -> int:
        """Clients that are connected now, tunnels included."""
        return self._admission.count

    @property
    def waiting(self) -> int:
        """New clients that wait for their turn."""
        return self._turnstile.waiting

    def close_some(self, node: Node, count: int) -> int:
        """End up to `count` tunnels to `node`, as if it had ended them; return how many."""
        return self._tunnels.close_some(node, count)

    @property
    def crowd(self) -> Crowd:
        """The addresses of those who were placed by address."""
        return self._turnstile.router.crowd

    @property
    def tunnels(self) -> int:
        return len(self._tunnels)

    def start(self, listening: socket.socket, plain: socket.socket | None = None) -> None:
        """Serve on `listening`, and lead there from `plain`; this takes both over."""
        keep_alive(listening)
        defer_accept(listening)
        lb = self._lb
        proxies = TrustedProxies.of(lb.trusted_proxies if lb.proxy_protocol else ())
        if self._redirect is not None and plain is not None:
            self._redirect.start(plain, lb.tls.redirect_port or listening.getsockname()[1], proxies)
        self._arrivals = Arrivals(
            listening,
            self._admission,
            self._greeter or self._express,
            self._reception.receive,
            proxies=proxies,
            head_timeout_s=lb.head_timeout_s,
            rejected=self._metrics.rejected,
        )
        self._arrivals.open()

    def _check(self, method: str, target: str, headers: Headers, peer: str) -> None:
        client = self._recogniser.recognise_request(target, headers, peer)
        self._guards.check(method, target, headers, client, None)

    async def stop(self, drain_s: float) -> None:
        """Stop accepting; let exchanges and tunnels finish for `drain_s`; end the rest."""
        self._stopping = True
        if self._arrivals is not None:
            self._arrivals.close()
        if self._greeter is not None:
            self._greeter.wind_down()
        if self._redirect is not None:
            self._redirect.close()
            await self._redirect.reception.wind_down()
        await self._reception.wind_down()
        if not await self._emptied(drain_s):
            self._reception.shut()
            self._turnstile.close()
            self._handoffs.close()
            self._tunnels.close()
            self._reception.end()
            if self._redirect is not None:
                self._redirect.reception.shut()
                self._redirect.reception.end()
            if not await self._emptied(1.0):
                self._tunnels.abort()
        self._upstream.close()
        self._yard.close()
        self._handoffs.close()

    async def _emptied(self, within_s: float) -> bool:
        self._empty.clear()
        if not self._admission.count:
            return True
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _serve(self, request: BaseRequest) -> Sent:
        connection = cast(Downstream, request.protocol)
        via = self._via(connection.peer)
        sent = await (self._logged(request, via) if self._access.is_on else self._answered(request, via))
        connection.stay_with_http()
        if sent.keep_alive and connection.is_between_requests:
            take_over(connection, self._yard)
            return replace(sent, keep_alive=False)
        if not sent.keep_alive:
            connection.leave_readable()
        return sent

    def _via(self, peer: str) -> Via:
        return Via(peer, self._recogniser.trusts(peer), self._trace(), self._secure)

    async def _logged(self, request: BaseRequest, via: Via) -> Sent:
        connection = cast(Downstream, request.protocol)
        began, brought = connection.prepared.came_at, connection.prepared.brought
        sent = Sent(keep_alive=False, status=499)  # unless we get to see how it ends, the client has gone
        try:
            sent = await self._answered(request, via)
        finally:
            if sent.status != 101:
                asked = self._access.asked(request.method, request.raw_path, request.raw_headers, via)
                sizes = brought + request.content.total_bytes, request.writer.output_size
                self._access.answered(asked, sent.node, sent.status, time.monotonic() - began, *sizes)
        return sent

    async def _answered(self, request: BaseRequest, via: Via) -> Sent:
        try:
            exchange = self._exchange(request, via)
            if _opens_websocket(exchange):
                return await self._upgrades.open(exchange)
            begins = exchange.client.begins and exchange.begun is None
            choice = await self._turnstile.choose(exchange.client) if begins else None
            return await self._forwarder.forward(exchange, choice)
        except BalancerError as exc:
            return await self._answer(request, exc)
        except ConnectionError:
            return Sent(keep_alive=False, status=499)  # the client is gone

    def _exchange(self, request: BaseRequest, via: Via) -> Exchange:
        """Return the exchange that `request` asks for.  Raises BalancerError for one that is refused."""
        target, headers = read_strictly(request.method, request.raw_path, request.version, request.raw_headers)
        connection = cast(Downstream, request.protocol)
        client = self._recogniser.recognise_request(target, headers, via.peer)
        if not connection.prepared.passed():
            body = request.content
            received = None if body is EMPTY_PAYLOAD else body.total_bytes
            self._guards.check(request.method, target, headers, client, received)
        return Exchange(
            connection=connection.number,
            request=request,
            target=target,
            headers=headers,
            client=client,
            via=via,
            is_closing=lambda: self._stopping,
            cookie_for=self._cookie_for,
            began=connection.prepared.began(),
            asked=self._access.asked(request.method, target, headers, via) if self._access.is_on else None,
            begun=connection.prepared.begun(),
        )

    async def _answer(self, request: BaseRequest, exc: BalancerError) -> Sent:
        connection = cast(Downstream, request.protocol)
        if exc.counted_as:
            self._metrics.rejected(exc.counted_as)
        log.debug(
            "answered by the balancer",
            extra={"conn": connection.number, "status": exc.http_status.value, "reason": str(exc)},
        )
        if isinstance(exc, BadRequest | ClientTooSlow | BodyTooLarge):
            # Who still sends shall be able to read why that is in vain.
            connection.expect_no_more(0.0 if isinstance(exc, BadRequest) else LINGER_S)
        keep_alive = request.keep_alive and not self._stopping and not exc.closes and request.content.is_eof()
        # RFC 9112 9.3: an HTTP/1.0 client takes the end of the connection for the end of the answer.
        keep_alive = keep_alive and request.version >= (1, 1) and not asks_for_unknown(request.raw_headers)
        answer = answer_to(exc, close=not keep_alive, head_only=request.method == "HEAD")
        await cast(StreamWriter, request.writer).write(answer)
        if isinstance(exc, BadRequest) and not request.content.is_eof():
            connection.leave_readable(more_comes=True)
        return Sent(keep_alive=keep_alive, status=exc.http_status)


def _opens_websocket(exchange: Exchange) -> bool:
    """Tell whether the client asks for a WebSocket, and what it may have sent ahead on it is all there."""
    is_asked = is_websocket_upgrade(exchange.method, exchange.version, exchange.headers)
    connection = cast(Downstream, exchange.request.protocol)
    # Of a choice of protocols aiohttp loses what is behind a body, or behind many requests that wait for their turn.
    return is_asked and (connection.ended_http or not asks_for_unknown(exchange.headers))
