"""Where connections come in: the node's own port."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from aiohttp import web

from cluster.errors import StartError

log = logging.getLogger(__name__)

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host`:`port`; port 0 lets the kernel choose.  Raises StartError, one line."""
    where = f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(
            address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
        )
    except socket.gaierror as exc:
        raise StartError(f"cannot listen on {where}: no such address: {exc.strerror}") from None
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise StartError(f"cannot listen on {where}: the port is in use; choose another with --port") from None
        raise StartError(f"cannot listen on {where}: {exc.strerror}") from None


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
