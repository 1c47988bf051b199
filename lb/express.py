"""The short way: a connection whose first bytes are one whole upgrade request goes to its node without any ado.

Of a WebSocket to a node on this host nothing is left here when it is open.  So when one look at a new connection shows
all that is needed, neither a transport nor a task of the event loop is made for it: this halves what a handshake costs.
Whatever is not that simple, or goes wrong, takes the long way (lb/downstream.py, lb/upgrade.py) as if nothing had been
tried: the client has not been sent a byte, and nothing was read that is not given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from cluster.handoff import Taken
from lb.access import AccessLog
from lb.affinity import Recogniser
from lb.arrived import Arrived
from lb.errors import BalancerError
from lb.guards import Guards
from lb.handoff import Handoffs
from lb.headers import Via, is_websocket_upgrade
from lb.offer import Answer, Arrival
from lb.pool import Path
from lb.strict import read_strictly
from lb.turnstile import Turnstile
from lb.upgrade import head_for


class Express:
    """Takes the connections that can go the short way."""

    reads = True

    def __init__(
        self,
        recogniser: Recogniser,
        guards: Guards,
        turnstile: Turnstile,
        handoffs: Handoffs,
        cookie_for: Callable[[str], str],
        trace: Callable[[], bytes],
        access: AccessLog,
    ) -> None:
        self._recogniser = recogniser
        self._guards = guards
        self._turnstile = turnstile
        self._handoffs = handoffs
        self._cookie_for = cookie_for
        self._trace = trace
        self._access = access
        self._loop = asyncio.get_running_loop()
        self._body = BaseProtocol(self._loop)  # what the parser would ask to wait while a body is not read

    def send(self, arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None]) -> Arrived | None:
        """Return None if `arrived` is on its way to a node: then either `gone` or `back` is called, once, later.

        Else return what has to go the long way.
        """
        found = self._upgrade_in(arrived.received)
        if found is None:
            return arrived
        request, early = found
        peer = arrived.peer
        try:
            target, headers = read_strictly(request.method, request.path, request.version, request.raw_headers)
            client = self._recogniser.recognise_request(target, headers, peer)
            self._guards.check(request.method, target, headers, client, None)
            arrived.passed = True
            choice = self._turnstile.pass_now(client)
            if choice is None:
                return arrived
            node = choice.node
            if node.path is not Path.HANDOFF:
                return replace(arrived, choice=choice)
            via = Via(peer, self._recogniser.trusts(peer), self._trace())
            head = head_for(node, target, headers, via)
            cookie = self._cookie_for(node.name) if choice.stick else None
            asked = self._access.asked(request.method, target, headers, via) if self._access.is_on else None
            arrival = Arrival(peer, arrived.at, asked)
            self._handoffs.offer(
                node, arrival, arrived.sock.fileno(), head + early, cookie, partial(_answered, arrived, gone, back)
            )
        except BalancerError:
            return arrived
        return None

    def _upgrade_in(self, received: bytes) -> tuple[RawRequestMessage, bytes] | None:
        """Return the request that `received` begins with and what is behind it, if it asks for a WebSocket."""
        # A guess that saves most other requests from being read twice; who spells it another way is served as well.
        if not received.startswith(b"GET ") or b"ebsocket" not in received:
            return None
        limits = self._guards.head
        parser = HttpRequestParser(
            self._body,
            self._loop,
            2**16,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.fields,
        )
        try:
            messages, upgraded, early = parser.feed_data(received)
        except HttpProcessingError:
            return None  # the long way says what is wrong
        if not upgraded or len(messages) != 1 or messages[0][1] is not EMPTY_PAYLOAD:
            return None
        request = messages[0][0]
        if not is_websocket_upgrade(request.method, request.version, request.raw_headers):
            return None
        return request, early


def _answered(arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None], answer: Answer) -> None:
    if isinstance(answer, Taken):
        arrived.sock.close()  # our copy; the connection is the node's
        gone()
    else:
        back(arrived)
