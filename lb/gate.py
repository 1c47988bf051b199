"""Who may ask what on the admin address.  Pure.

Without a token (`lb.admin_token`) whoever reaches a loopback address is an operator of this host; but a browser on this
host carries out what any web page tells it.  So the Host must be a name of this host, or a page whose name was pointed
at 127.0.0.1 (DNS rebinding) could read; and what changes something needs a header that no other site's form can send.

Beyond loopback there is no trust without a token: health and metrics are for probes and Prometheus, the rest is closed.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from cluster.config import Lb

OPEN = frozenset({"/healthz", "/metrics"})
"""For whoever reaches the address: load balancers, container engines and Prometheus seldom bring a token."""

SHELL = frozenset({"/", "/dashboard.css", "/dashboard.js", "/api/openapi.json"})
"""Files of ours, the same everywhere.  The page asks for the token itself, once it is there."""

HEADER = "X-Flotilla"
"""What a call that changes something must carry, with any value, unless it brings a token: another site's page cannot
send either without asking first (CORS preflight, Fetch standard 4.8), which is refused."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Denied:
    """Why a call is not answered."""

    status: HTTPStatus
    reason: str


@dataclass(frozen=True)
class Gate:
    """Decides by one configuration."""

    token: str
    is_loopback: bool
    host: str
    """Where the admin address listens: a name that callers may use as well."""

    @classmethod
    def of(cls, lb: Lb) -> Self:
        return cls(lb.admin_token, lb.admin.is_loopback, lb.admin.host)

    @property
    def is_closed(self) -> bool:
        """Whether nothing but health and metrics is served, for want of a token."""
        return not self.token and not self.is_loopback

    def denied(self, method: str, path: str, headers: Mapping[str, str]) -> Denied | None:
        """Return why this call is not answered, or None if it is; `headers` does not mind the case of names."""
        if not self.token and self.is_loopback and not self._is_name_of_ours(headers.get("Host", "")):
            return Denied(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this address is for this host alone: ask for localhost, or set lb.admin_token",
            )
        if path in OPEN and method in _SAFE:
            return None
        if self.is_closed:
            return Denied(
                HTTPStatus.FORBIDDEN,
                "lb.admin is not a loopback address and lb.admin_token is not set: only /healthz and /metrics are open",
            )
        if self.token:
            if (path in SHELL and method in _SAFE) or self._is_token(headers.get("Authorization", "")):
                return None
            return Denied(HTTPStatus.UNAUTHORIZED, "needs Authorization: Bearer and the token (lb.admin_token)")
        if method not in _SAFE and HEADER not in headers:
            return Denied(HTTPStatus.FORBIDDEN, f"a call that changes something needs the header {HEADER}: 1")
        return None

    def _is_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        # RFC 7235 2.1: the scheme's case does not matter.  Bytes, since what a caller sends may be no ASCII.
        matches = hmac.compare_digest(given.strip().encode(errors="replace"), self.token.encode())
        return scheme.lower() == "bearer" and matches

    def _is_name_of_ours(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        if name in ("localhost", self.host.lower()):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
