"""Requests that Engine.IO does not serve, and what it says to them: status, code and message.  Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_plus

POLLING = "polling"
WEBSOCKET = "websocket"
TRANSPORTS = (POLLING, WEBSOCKET)

PROTOCOL = "4"
"""The `EIO` of Engine.IO protocol revision 4."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer to a request that is not served, as Engine.IO's reference server gives it."""

    code: int
    message: str
    status: int = 400

    @property
    def body(self) -> bytes:
        return json.dumps({"code": self.code, "message": self.message}, separators=(",", ":")).encode()


UNKNOWN_TRANSPORT = Refusal(0, "Transport unknown")
UNKNOWN_SID = Refusal(1, "Session ID unknown")
BAD_HANDSHAKE_METHOD = Refusal(2, "Bad handshake method")
BAD_REQUEST = Refusal(3, "Bad request")
FORBIDDEN = Refusal(4, "Forbidden", 403)
UNSUPPORTED_PROTOCOL_VERSION = Refusal(5, "Unsupported protocol version")
TOO_LARGE = Refusal(3, "Payload too large", 413)


class Known(Protocol):
    """A session, as far as a request for it must fit."""

    @property
    def transport(self) -> str: ...


def query_of(target: str) -> dict[str, str]:
    """Return the parameters in the query of a request target; of one that is there twice, the first."""
    parameters: dict[str, str] = {}
    for part in target.partition("?")[2].partition("#")[0].split("&"):
        name, _, value = part.partition("=")
        if name not in parameters:
            parameters[name] = unquote_plus(value) if "%" in value or "+" in value else value
    return parameters


def refusal_of(
    method: str,
    query: Mapping[str, str],
    is_upgrade: bool,
    session: Known | None,
    transports: Collection[str],
) -> Refusal | None:
    """Return why a request is not served, or None.

    `is_upgrade` says that it asks for a WebSocket (RFC 6455 4.1); `session` is the one that its `sid` names.  A request
    without a `sid` opens one.
    """
    transport = query.get("transport")
    if transport not in transports:
        return UNKNOWN_TRANSPORT
    sid = query.get("sid")
    if sid is None and method != "GET":
        return BAD_HANDSHAKE_METHOD
    if (transport == WEBSOCKET) != is_upgrade:
        # Also a poll that asks for an upgrade: what follows it on its connection would not be HTTP.
        return BAD_REQUEST
    if sid is None:
        return None if query.get("EIO") == PROTOCOL else UNSUPPORTED_PROTOCOL_VERSION
    if session is None:
        return UNKNOWN_SID
    if is_upgrade:
        return None
    return None if session.transport == transport and method in ("GET", "POST") else BAD_REQUEST
