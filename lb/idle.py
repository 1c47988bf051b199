"""Connections to nodes that wait for their next use, for as long as they are certain to be alive.

A node that closes one, or speaks without being asked, is heard at once: that one is not used again.
"""

from __future__ import annotations

import asyncio

from lb.plain_link import PlainLink

REUSE_WITHIN_S = 3.0
"""A connection is used again only if it was idle for less: servers close idle ones after 5 s (Node.js, uvicorn) or
more, and a request that crosses such a close is lost."""


class IdleLinks:
    """Those of one worker; of those to one node the last one first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[tuple[str, int], list[PlainLink]] = {}
        self._purge: asyncio.TimerHandle | None = None

    def put(self, link: PlainLink) -> None:
        """Keep `link` for its next use."""
        link.idle_since = self._loop.time()
        self._idle.setdefault(link.address, []).append(link)
        if self._purge is None:
            self._purge = self._loop.call_later(REUSE_WITHIN_S, self._close_stale)

    def take(self, address: tuple[str, int]) -> PlainLink | None:
        """Return a connection to `address` that may be used again, if there is one."""
        links = self._idle.get(address)
        while links:
            link = links.pop()
            if link.is_reusable and self._loop.time() - link.idle_since < REUSE_WITHIN_S:
                link.reused = True
                return link
            link.close()
        return None

    def drop(self, address: tuple[str, int]) -> None:
        """Close those to `address`."""
        for link in self._idle.pop(address, []):
            link.close()

    def close(self) -> None:
        """Close them all."""
        if self._purge is not None:
            self._purge.cancel()
            self._purge = None
        for links in self._idle.values():
            for link in links:
                link.close()
        self._idle.clear()

    def _close_stale(self) -> None:
        self._purge = None
        oldest = self._loop.time() - REUSE_WITHIN_S
        for address, links in list(self._idle.items()):
            kept = []
            for link in links:
                if link.idle_since > oldest and link.is_reusable:
                    kept.append(link)
                else:
                    link.close()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        if self._idle:
            self._purge = self._loop.call_later(REUSE_WITHIN_S, self._close_stale)
