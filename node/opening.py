"""The opening handshake of a WebSocket (RFC 6455 4.2), and how its connection leaves aiohttp's hands.

aiohttp reads and routes the request, as any other; then the connection is taken out, whole: no task, no parser and no
request of aiohttp's is left of it.  The private names of aiohttp that this touches are listed in
tests/node/test_contracts_opening.py.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from typing import NamedTuple

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import MultiMapping

from node.channel import Channel, ChannelLimits, Receiver
from node.deflate import agree
from node.farewell import OnEnd
from node.reader import HalfRead

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"

Headers = Iterable[tuple[str, str]]


class BadOpening(Exception):
    """A request that opens no WebSocket: answered with `status` and the text, and `headers`."""

    def __init__(self, text: str, status: int = 400, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


class Taken(web.StreamResponse):
    """What a handler returns once the connection is ours: aiohttp shall write nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to prepare, and no hooks: nobody's headers would go anywhere."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to end."""


def take_over(
    request: web.BaseRequest, receiver: Receiver, limits: ChannelLimits, headers: Headers = ()
) -> tuple[Channel, web.StreamResponse]:
    """Open the WebSocket that `request` asks for, with `headers` in the answer, and take its connection from aiohttp.

    The request's handler returns the response at once; it must not keep the request.  Messages go to `receiver` only
    once this has returned.  Raises web.HTTPException: the request opens no WebSocket.
    """
    try:
        if request.method != "GET" or request.version < (1, 1):
            raise BadOpening("a WebSocket opens with GET and HTTP/1.1")
        key = checked_key(request.headers)
    except BadOpening as exc:
        raise _http_error(exc) from None
    handler = request.protocol
    if request.body_exists or not handler._upgraded:
        raise web.HTTPBadRequest(text="a WebSocket opens with a request without a body\n")
    # Of a connection that a balancer lent us: node/adoption.py.
    on_end = getattr(handler, "on_end", None)
    if cookie := getattr(handler, "cookie", ""):
        headers = (*headers, ("Set-Cookie", cookie))
    transport, early = _detach(handler)
    if transport is None or transport.is_closing():
        # The client went while it was served: its channel ends as any other.
        channel = Channel(receiver, limits, on_end=on_end)
        asyncio.get_running_loop().call_soon(channel.connection_lost, None)
    else:
        channel = _open(_Client(transport, early, on_end), request.headers, key, receiver, limits, headers)
    return channel, Taken(status=101)


def open_raw(
    transport: asyncio.Transport,
    request_headers: MultiMapping[str],
    early: bytes,
    receiver: Receiver,
    limits: ChannelLimits,
    headers: Headers = (),
    *,
    on_end: OnEnd | None = None,
) -> Channel:
    """As `take_over`, for a connection that aiohttp never had: a GET by HTTP/1.1 without a body was read from it.

    `early` is what came behind the request's head.  Raises BadOpening; then `transport` is still the caller's.
    """
    key = checked_key(request_headers)
    return _open(_Client(transport, early, on_end), request_headers, key, receiver, limits, headers)


def checked_key(headers: MultiMapping[str]) -> str:
    """Return the key of a request that opens a WebSocket (RFC 6455 4.2.1).  Raises BadOpening."""
    if "websocket" not in _tokens(headers, "Upgrade") or "upgrade" not in _tokens(headers, "Connection"):
        raise BadOpening("not a WebSocket's request", 426, {"Upgrade": "websocket", "Connection": "Upgrade"})
    if headers.get("Sec-WebSocket-Version", "") != VERSION:
        # RFC 6455 4.4
        raise BadOpening(f"Sec-WebSocket-Version: {VERSION} is spoken here", 426, {"Sec-WebSocket-Version": VERSION})
    key: str = headers.get("Sec-WebSocket-Key", "")
    try:
        if len(key) != 24 or len(binascii.a2b_base64(key, strict_mode=True)) != 16:
            raise ValueError
    except ValueError:
        raise BadOpening("Sec-WebSocket-Key must be 16 bytes in base64") from None
    return key


def answer(key: str, headers: Headers = ()) -> bytes:
    """Return the head of the answer that opens the WebSocket (RFC 6455 4.2.2)."""
    accept = b64encode(sha1(key.encode() + _GUID).digest()).decode()
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    ).encode()


def _tokens(headers: MultiMapping[str], name: str) -> list[str]:
    return [token.strip().lower() for value in headers.getall(name, ()) for token in value.split(",")]


def _http_error(exc: BadOpening) -> web.HTTPException:
    kind = web.HTTPUpgradeRequired if exc.status == 426 else web.HTTPBadRequest
    return kind(text=f"{exc}\n", headers=exc.headers)


def _detach(handler: RequestHandler) -> tuple[asyncio.Transport | None, bytes]:
    """Take the connection out of aiohttp's hands: its transport, if that is there, and what came behind the request."""
    transport, handler.transport = handler.transport, None
    early, handler._message_tail = handler._message_tail, b""
    # What follows is the end of the connection in aiohttp's eyes, except that the handler's task shall go on; and not
    # in those of whoever lent it.
    handler._task_handler = None
    RequestHandler.connection_lost(handler, None)
    return transport, early


class _Client(NamedTuple):
    transport: asyncio.Transport
    early: bytes
    on_end: OnEnd | None


def _open(
    client: _Client,
    request_headers: MultiMapping[str],
    key: str,
    receiver: Receiver,
    limits: ChannelLimits,
    headers: Headers,
) -> Channel:
    deflates = 0
    if limits.compression and (agreed := agree(request_headers.getall("Sec-WebSocket-Extensions", ()))):
        deflates = agreed.window_bits
        headers = (*headers, ("Sec-WebSocket-Extensions", agreed.answer))
    transport = client.transport
    half = HalfRead(unread=client.early) if client.early else None
    channel = Channel(receiver, limits, deflates=deflates, half=half, on_end=client.on_end)
    transport.set_protocol(channel)
    channel.connection_made(transport)
    # Together with what is sent first of all, in one segment.
    channel.write(answer(key, headers))
    if not transport.is_reading():
        transport.resume_reading()  # aiohttp had stopped it: much came behind the request
    return channel
