"""What `Server(...)` and `Engine(...)` can be told about Engine.IO: python-engineio's options, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import UsageError
from node.cors import Allowed
from node.refusal import TRANSPORTS

AllowRequest = Callable[[Mapping[str, Any]], Any | Awaitable[Any]]


@dataclass(frozen=True)
class EngineOptions:
    """Times in seconds; `ping_interval` with the grace that the promise to clients adds to it.

    `allow_request`, of the environ, decides on each new session: true, false, or a text that says why not.
    """

    ping_interval: tuple[float, float] = (25, 0)
    ping_timeout: float = 20
    max_http_buffer_size: int = 1_000_000
    slow_consumer_bytes: int = 2**20
    allow_upgrades: bool = True
    allow_request: AllowRequest | None = None
    http_compression: bool = True
    compression_threshold: int = 1024
    compression: bool = False
    """Compress WebSocket messages (RFC 7692)."""
    cookie: str | Mapping[str, Any] | None = None
    cors_allowed_origins: Allowed = None
    cors_credentials: bool = True
    transports: tuple[str, ...] = TRANSPORTS
    json: Any = None
    logger: Any = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> EngineOptions:
        """Check `options`, named as python-engineio names them.  Raises UsageError."""
        given = dict(options)
        for name, allowed in _ONLY.items():
            if name in given and given.pop(name) not in allowed:
                raise UsageError(f"{name}={options[name]!r} is not supported; allowed: {', '.join(map(repr, allowed))}")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in given:
            if name not in known:
                raise UsageError(f"{name} is no option of this server; allowed: {', '.join(sorted(known | {*_ONLY}))}")
        if "ping_interval" in given:
            given["ping_interval"] = _interval(given["ping_interval"])
        if given.get("transports") is None:
            given.pop("transports", None)
        else:
            given["transports"] = _transports(given["transports"])
        if isinstance(given.get("logger"), bool):
            del given["logger"]
        return cls(**given)


_ONLY: dict[str, tuple[Any, ...]] = {
    "async_mode": ("aiohttp", None),
    "async_handlers": (False,),
    "monitor_clients": (True, None),
}
"""Options that are there because python-engineio has them, and what they may be."""


def _interval(given: Any) -> tuple[float, float]:
    interval, grace = given if isinstance(given, tuple) else (given, 0)
    return interval, grace


def _transports(given: str | Iterable[str]) -> tuple[str, ...]:
    transports = (given,) if isinstance(given, str) else tuple(given)
    unknown = set(transports) - {*TRANSPORTS}
    if unknown or not transports:
        raise UsageError(f"transports={given!r}: allowed are {' and '.join(TRANSPORTS)}")
    return transports
