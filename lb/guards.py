"""What a request must keep to before any node hears of it (docs/guards.md).  Pure.

All ways of a request ask here, the short ones (lb/express.py, lb/shuttle.py) and the long one (lb/front.py): so they
agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cluster.config import Lb
from lb.affinity import Client
from lb.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    HeadTooLarge,
    OriginRefused,
    TooManyRequests,
    UpgradeRefused,
)
from lb.headers import Headers, tokens, values
from lb.origins import AllowedOrigins
from lb.rates import Rates

MOST_LINE_BYTES = 8190
"""Of the request line, and of each field: what aiohttp reads on a node, and Apache and nginx, too."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 9.2.1


@dataclass(frozen=True)
class HeadLimits:
    """How much of a head is read.  aiohttp's parser is given `line_bytes` and `fields`; `bytes` we count ourselves."""

    bytes: int
    fields: int

    @classmethod
    def of(cls, limits: Lb) -> HeadLimits:
        return cls(limits.max_head_bytes, limits.max_headers)

    @property
    def line_bytes(self) -> int:
        return min(self.bytes, MOST_LINE_BYTES)

    def check(self, method: str, target: str, headers: Headers) -> None:
        """Raise HeadTooLarge for a head that is."""
        if len(headers) > self.fields:
            raise HeadTooLarge(f"more than {self.fields} fields")
        if _head_size(method, target, headers) > self.bytes:
            raise self.too_large()

    def too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"more than {self.bytes} bytes")


@dataclass(frozen=True)
class BodyLimits:
    """How much of a body may come, and how slowly."""

    most_bytes: int
    """0: any number."""
    idle_s: float
    """Between two pieces."""
    whole_s: float
    """For all of it; 0: no limit."""
    bytes_per_s: int
    """So many bytes that came give it another second; 0: they give none."""

    @classmethod
    def of(cls, limits: Lb) -> BodyLimits:
        return cls(limits.max_body_bytes, limits.idle_timeout_s, limits.body_timeout_s, limits.min_body_bytes_per_s)

    def check(self, size: int) -> None:
        """Raise BodyTooLarge if a body of `size` bytes, or one that has come so far, is too large."""
        if self.most_bytes and size > self.most_bytes:
            raise BodyTooLarge(f"{size} bytes, of at most {self.most_bytes}")

    def patience_s(self, received: int, waited_s: float) -> float:
        """Return how long the next piece may take to come, after we waited `waited_s` in all for `received` bytes."""
        if not self.whole_s:
            return self.idle_s
        gained_s = received / self.bytes_per_s if self.bytes_per_s else 0.0
        return max(0.0, min(self.idle_s, self.whole_s + gained_s - waited_s))

    def too_slow(self, received: int, waited_s: float) -> BodyTooSlow:
        return BodyTooSlow(f"{received} bytes of a body in {waited_s:.1f} s")


class Guards:
    """The limits of one worker, whose part of the rates is `share`; `clock` gives monotonic seconds."""

    def __init__(self, limits: Lb, share: float, clock: Callable[[], float]) -> None:
        self.head = HeadLimits.of(limits)
        self.body = BodyLimits.of(limits)
        self._origins = AllowedOrigins.of(limits.allowed_origins) if limits.allowed_origins else None
        self._refuses_upgrades = limits.other_upgrades == "refuse"
        per_s = limits.requests_per_s_per_address * share
        self._rates = Rates(per_s, limits.request_burst_per_address) if per_s else None
        self._clock = clock

    def check(self, method: str, target: str, headers: Headers, client: Client, body_received: int | None) -> None:
        """Raise what is wrong with a request; else it counts as one of its client's address.

        `body_received` is how much of its body has come by now, None if it has none.

        Raises HeadTooLarge, BadRequest, OriginRefused, UpgradeRefused, BodyTooLarge, or at last TooManyRequests: what
        is refused for another reason takes nothing from the address's rate, but ends its connection.
        """
        self.head.check(method, target, headers)
        if self._origins is not None:
            self._check_origin(self._origins, method, headers, client)
        if self._refuses_upgrades:
            _check_upgrade(headers)
        if body_received is not None:
            self._check_body(headers, body_received)
        if self._rates is not None:
            wait_s = self._rates.take(client.address, self._clock())
            if wait_s:
                raise TooManyRequests(client.address, retry_after_s=math.ceil(wait_s))

    def _check_origin(self, allowed: AllowedOrigins, method: str, headers: Headers, client: Client) -> None:
        origins = values(headers, b"origin")
        if not origins:
            return  # no browser: RFC 6455 4.2.2, 10.2
        if method in _SAFE and not client.begins and not client.sid and not values(headers, b"upgrade"):
            return  # it changes nothing, and whether its page may read the answer is the node's to say (CORS)
        if len(origins) > 1:
            raise BadRequest("Origin more than once")  # RFC 6454 7.3
        if not allowed.allow(origins[0]):
            raise OriginRefused(origins[0])

    def _check_body(self, headers: Headers, received: int) -> None:
        length = values(headers, b"content-length")
        self.body.check(int(length[0]) if length else received)


def _head_size(method: str, target: str, headers: Headers) -> int:
    """Return how many bytes a head is: as sent, but for the space around a value that needs none."""
    return (
        len(method) + len(target) + _LINE + sum([len(name) + len(value) for name, value in headers]) + 4 * len(headers)
    )


_LINE = len("  HTTP/1.1\r\n\r\n")


def _check_upgrade(headers: Headers) -> None:
    others = tokens(headers, b"upgrade") - {b"websocket"}
    if others:
        raise UpgradeRefused(sorted(others)[0])
