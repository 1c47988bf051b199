"""The short way of a handed-over connection to an Engine.IO session: no request, no task and no handler of aiohttp's.

Taken only where nobody could tell the difference; whatever is unusual goes through aiohttp, which also answers what is
to be refused.
"""

from __future__ import annotations

import asyncio

from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11, RawRequestMessage

from cluster.handoff import Handoff
from node.channel import Channel, Receiver
from node.farewell import OnEnd
from node.intake import Intake
from node.opening import BadOpening, Headers, open_raw

MOST_LINE_BYTES, MOST_HEADERS = 8190, 128
"""The limits of aiohttp's own server, so that no request passes here that would not there."""


class Shortcut:
    """A node.arrival.Shortcut to the sessions of `intake`, for requests of `path`."""

    def __init__(self, intake: Intake, path: str) -> None:
        self._intake = intake
        self._beginning = f"GET {path}?".encode()

    def __call__(self, transport: asyncio.Transport, given: Handoff, on_end: OnEnd) -> bool:
        # Most others are WebSockets of the application's own, which aiohttp shall not have to read a second time.
        parsed = _parsed(given.received) if given.received.startswith(self._beginning) else None
        if parsed is None:
            return False
        message, early = parsed
        cookie = [("Set-Cookie", given.cookie)] if given.cookie else []

        def opening(receiver: Receiver, headers: Headers) -> Channel:
            return open_raw(
                transport, message.headers, early, receiver, self._intake.limits, (*headers, *cookie), on_end=on_end
            )

        head = given.received[: len(given.received) - len(early)]
        peer = transport.get_extra_info("peername")
        try:
            return self._intake.open_websocket(
                message.path, message.headers, head, peer[0] if isinstance(peer, tuple) else None, opening
            )
        except BadOpening:
            return False


def _parsed(received: bytes) -> tuple[RawRequestMessage, bytes] | None:
    """Return a whole request that asks to go on with another protocol, and what came behind it; else None."""
    parser = HttpRequestParser(
        _NO_PROTOCOL,  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        2**16,
        max_line_size=MOST_LINE_BYTES,
        max_field_size=MOST_LINE_BYTES,
        max_headers=MOST_HEADERS,
    )
    try:
        messages, is_upgraded, early = parser.feed_data(received)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or not is_upgraded:
        return None
    message = messages[0][0]
    if message.version != HttpVersion11:
        return None
    return message, early


class _NoProtocol:
    """Nothing is ever paused while one head is parsed."""


_NO_PROTOCOL = _NoProtocol()
