"""A WebSocket's way to its node: handed over where the node is on this host, through a tunnel where it is not."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from aiohttp.streams import EMPTY_PAYLOAD

from lb.downstream import Downstream
from lb.errors import NoNodeAvailable, NotReached
from lb.exchange import Exchange, Sent
from lb.handoff import Handoffs
from lb.headers import Headers, Via, request_head
from lb.offer import Arrival, LinkBroken, NotTaken, TooMuchRead
from lb.pool import Node, Path, Pool
from lb.route import By, Choice
from lb.tunnel import Tunnels
from lb.turnstile import Turnstile

log = logging.getLogger(__name__)

WAIT_FOR_ROOM_S = 0.25
"""How long a client waits when no node takes it, before they are asked once more."""

BROKEN_S = 10.0
"""How long a node whose handoff socket cannot be reached is left to the tunnel, before it is tried again."""


class Upgrades:
    """Opens WebSockets."""

    def __init__(self, pool: Pool, turnstile: Turnstile, handoffs: Handoffs, tunnels: Tunnels) -> None:
        self._pool = pool
        self._turnstile = turnstile
        self._handoffs = handoffs
        self._tunnels = tunnels

    async def open(self, exchange: Exchange) -> Sent:
        """Bring the client to a node.  Raises BalancerError while the client has not been sent anything."""
        tried: set[str] = set()
        has_waited = False
        choice = cast(Downstream, exchange.request.protocol).prepared.chosen() or await self._turnstile.choose(
            exchange.client
        )
        while True:
            sent = await self._opened_at(choice, exchange)
            if sent is not None:
                return sent
            tried.add(choice.node.name)
            choice, has_waited = await self._other(exchange, tried, has_waited=has_waited)

    async def _other(self, exchange: Exchange, tried: set[str], *, has_waited: bool) -> tuple[Choice, bool]:
        """Return the next node to try, and whether the client has waited for one.  Raises NoNodeAvailable."""
        while True:
            try:
                return self._turnstile.choose_again(exchange.client, tried), has_waited
            except NoNodeAvailable:
                if has_waited or not any(node.takes_new and node.name in tried for node in self._pool):
                    raise
                has_waited = True
                await asyncio.sleep(WAIT_FOR_ROOM_S)
                tried.clear()

    async def _opened_at(self, choice: Choice, exchange: Exchange) -> Sent | None:
        """Open the WebSocket at the node of `choice`, whichever way; return None if another node must be chosen."""
        node = choice.node
        if self._can_hand_over(exchange, choice):
            try:
                return await self._hand_over(exchange, choice)
            except TooMuchRead as exc:
                log.debug("not handed over", extra={"node": node.name, "reason": str(exc)})
            except LinkBroken as exc:
                # Its port may still be open: then it serves through a tunnel, else the tunnel finds out.
                self._leave_alone(node)
                log.warning("handoff impossible: tunnelling", extra={"node": node.name, "reason": str(exc)})
            except NotTaken as exc:
                log.info("handoff not taken", extra={"node": node.name, "reason": str(exc)})
                # A session is at its node and nowhere else: one that leaves, or has no room, still serves its own.
                if choice.by is not By.SID:
                    return None
        try:
            return await self._tunnels.open(exchange, choice)
        except NotReached:
            return None

    def _leave_alone(self, node: Node) -> None:
        """Tunnel to `node` for a while: with no Redis to tell of a new process, only asking again shows one."""
        node.handoff_broken = True
        asyncio.get_running_loop().call_later(BROKEN_S, setattr, node, "handoff_broken", False)

    def _can_hand_over(self, exchange: Exchange, choice: Choice) -> bool:
        """Tell whether the node may have the connection now: nothing of ours is on its way to the client, and all
        that came behind the head is there, untouched."""
        connection = cast(Downstream, exchange.request.protocol)
        untouched = connection.ended_http and exchange.body is EMPTY_PAYLOAD
        return choice.node.path is Path.HANDOFF and connection.is_quiet and untouched

    async def _hand_over(self, exchange: Exchange, choice: Choice) -> Sent:
        node = choice.node
        head = head_for(node, exchange.target, exchange.headers, exchange.via)
        cookie = exchange.cookie_for(node.name) if choice.stick else None
        connection = cast(Downstream, exchange.request.protocol)
        arrival = Arrival(connection.peer, exchange.began, exchange.asked)
        await self._handoffs.pass_on(node, connection, head, cookie, arrival)
        return Sent(keep_alive=False, status=101, node=node.name)


def head_for(node: Node, target: str, headers: Headers, via: Via) -> bytes:
    """Return the upgrade request that `node` gets with a connection."""
    return request_head("GET", target, headers, via, host=f"{node.host}:{node.port}", websocket=True)
