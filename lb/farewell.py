"""How a client's connection ends, so that its client notices, and can read what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FIRST_REQUEST_S = 1.0
"""How long a TLS connection may take to bring its first request when its worker stops."""

LINGER_S = 1.0
"""How long a refused client may read its answer: closing at once would reset the connection under it."""


def close_gently(transport: asyncio.Transport) -> None:
    """Say that no more comes, and read on for a moment: closing over bytes that nobody has read resets a connection."""
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()  # TLS: says that no more comes, and passes over what still does
    asyncio.get_running_loop().call_later(LINGER_S, transport.abort)


def close_idle(
    transport: asyncio.Transport | None, close: Callable[[], None], again: Callable[[], None] | None
) -> None:
    """End a client's connection on which nothing goes on, by `close`.

    Over TLS `again` is called in a moment instead, if its first request may be on its way.
    """
    if transport is None or transport.can_write_eof():
        close()
        return
    loop = asyncio.get_running_loop()
    if again is not None:
        loop.call_later(FIRST_REQUEST_S, again)
    else:
        close()
        # Who keeps a connection in store does not listen to it, and would not hear that we want to close it.
        loop.call_later(LINGER_S, transport.abort)
