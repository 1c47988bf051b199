"""A WebSocket's way to its node: handed over where the node is on this host, through a tunnel where it is not."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from lb.downstream import Downstream
from lb.errors import NoNodeAvailable
from lb.exchange import Exchange, Sent
from lb.forward import Forwarder
from lb.handoff import Handoffs, LinkBroken, NodeBusy, NotTaken, TooMuchRead
from lb.headers import request_head
from lb.pool import Path, Pool
from lb.route import Choice, Router
from lb.tunnel import Tunnels

log = logging.getLogger(__name__)

WAIT_FOR_ROOM_S = 0.25
"""How long a client waits when every node is too busy to take it, before they are asked once more."""


class Upgrades:
    """Opens WebSockets."""

    def __init__(self, pool: Pool, router: Router, forwarder: Forwarder, handoffs: Handoffs, tunnels: Tunnels) -> None:
        self._pool = pool
        self._router = router
        self._forwarder = forwarder
        self._handoffs = handoffs
        self._tunnels = tunnels

    async def open(self, exchange: Exchange) -> Sent:
        """Bring the client to a node.  Raises BalancerError while the client has not been sent anything."""
        tried: set[str] = set()
        may_wait = True
        busy = False
        while True:
            try:
                choice = self._router.route(self._pool, exchange.client, tried)
            except NoNodeAvailable:
                if not (busy and may_wait):
                    raise
                may_wait = False
                await asyncio.sleep(WAIT_FOR_ROOM_S)
                tried.clear()
                continue
            if not self._can_hand_over(exchange, choice):
                return await self._tunnels.open(exchange, choice)
            try:
                return await self._hand_over(exchange, choice)
            except TooMuchRead:
                return await self._tunnels.open(exchange, choice)
            except LinkBroken as exc:
                # Its port may still be open: then it serves through a tunnel, else the tunnel finds out.
                choice.node.handoff_broken = True
                log.warning("handoff impossible: tunnelling", extra={"node": choice.node.name, "reason": str(exc)})
            except NotTaken as exc:
                busy = busy or isinstance(exc, NodeBusy)
                tried.add(choice.node.name)
                log.warning("handoff not taken", extra={"node": choice.node.name, "reason": str(exc)})

    def _can_hand_over(self, exchange: Exchange, choice: Choice) -> bool:
        """Tell whether the node may have the connection now: nothing of ours is on its way to the client, no body
        of the request is on its way to us."""
        connection = cast(Downstream, exchange.request.protocol)
        return choice.node.path is Path.HANDOFF and connection.is_quiet and exchange.body.is_eof()

    async def _hand_over(self, exchange: Exchange, choice: Choice) -> Sent:
        node = choice.node
        head = request_head(
            exchange.method,
            exchange.request.raw_path,
            exchange.headers,
            exchange.via,
            host=f"{node.host}:{node.port}",
            websocket=True,
        )
        cookie = exchange.cookie_for(node.name) if choice.stick else None
        await self._handoffs.pass_on(node, cast(Downstream, exchange.request.protocol), head, cookie)
        choice.place(new_connection=True)
        return Sent(keep_alive=False, status=101)
