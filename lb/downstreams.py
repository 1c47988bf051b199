"""The long way's connections of clients, as many as there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp.web import BaseRequest, Server

from lb.arrived import Arrived
from lb.downstream import Downstream, DownstreamLimits
from lb.exchange import Sent


class Downstreams:
    """Those of one worker, all served by `handler`."""

    def __init__(self, handler: Callable[[BaseRequest], Awaitable[Sent]], limits: DownstreamLimits) -> None:
        # What the handler returns is no StreamResponse, see `Sent`.
        self._server = Server(handler, handler_cancellation=True)  # type: ignore[arg-type]
        self.limits = limits

    def made(self, number: int, arrived: Arrived) -> Downstream:
        """Return the protocol for a connection that has arrived."""
        return Downstream(self._server, self.limits, number, arrived)

    def take_over(self, arrived: Arrived, transport: asyncio.Transport, number: int, *, is_full: bool) -> Downstream:
        """Serve a connection that went the short way.  `is_full`: what its client was sent is not yet on its way."""
        connection = self.made(number, arrived)
        transport.set_protocol(connection)
        if is_full:
            connection.pause_writing()  # as the transport has told the protocol before
        connection.connection_made(transport)
        return connection

    @property
    def open(self) -> list[Downstream]:
        """Those that are there now."""
        return cast(list[Downstream], list(self._server.connections))
