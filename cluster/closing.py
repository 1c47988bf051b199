"""WebSocket close codes that Flotilla uses (RFC 6455 7.4).  They are API: clients decide by them how to come back."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """Why a WebSocket was closed by us."""

    GOING_AWAY = 1001
    """The node or the balancer leaves: reconnect at once."""
    TRY_AGAIN_LATER = 1013
    """No room: reconnect with backoff."""
    SLOW_CONSUMER = 4008
    """The client read too slowly and messages were lost: reconnect and ask for the current state."""
    UNAUTHORIZED = 4401
    """Do not come back with these credentials."""
