"""Where connections come in: the node's own port."""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web

from cluster.listening import BACKLOG

log = logging.getLogger(__name__)


class Door:
    """Serves `application` on `listener`, which it takes over."""

    def __init__(self, application: web.Application, listener: socket.socket) -> None:
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        self._listener = listener

    async def set_up(self) -> None:
        """Run the application's start-up hooks; whatever they raise is theirs."""
        await self._runner.setup()

    async def open(self) -> None:
        await web.SockSite(self._runner, self._listener, backlog=BACKLOG).start()

    @property
    def server(self) -> web.Server:
        """What serves the connections of this port, and those that come in another way.  There once set up."""
        assert self._runner.server is not None
        return self._runner.server

    async def close(self, within_s: float) -> None:
        """Close the port and all connections and run the application's clean-up hooks, for at most `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self._runner.cleanup()
        except TimeoutError:
            log.warning("clean-up not finished", extra={"within_s": within_s})
