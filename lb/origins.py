"""Which web pages may send requests that change something (`lb.allowed_origins`).  Pure.

A browser lets any page open a WebSocket to any server, with the user's cookies, and leaves it to the server to look at
`Origin` (RFC 6455 10.2).  Programs that are no browsers send none, or any: for them this is no guard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.origin import ANY_SUBDOMAIN, NULL, canonical

MOST_BYTES = 512
"""A longer origin is nobody's: a host name has at most 253 octets (RFC 1035 2.3.4)."""


@dataclass(frozen=True)
class AllowedOrigins:
    """`exact` are origins in their canonical spelling; `below` has the ends around a subdomain, which may be any."""

    exact: frozenset[str]
    below: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> AllowedOrigins:
        """Read what the configuration says, which has been checked (cluster/origin.py)."""
        exact, below = set(), []
        for pattern in patterns:
            scheme, star, domain = pattern.partition(ANY_SUBDOMAIN)
            if star:
                below.append((scheme, f".{domain}"))
            else:
                exact.add(pattern)
        return cls(frozenset(exact), tuple(below))

    def allow(self, value: bytes) -> bool:
        """Tell whether a page whose `Origin` has this value may."""
        if len(value) > MOST_BYTES:
            return False
        text = value.decode("latin-1")
        if text in self.exact:  # as browsers spell it
            return True
        origin = canonical(text)
        if origin is None or text == NULL:
            return False
        # At least one octet of a name is between the two ends: a domain is not below itself.
        return origin in self.exact or any(
            len(origin) > len(scheme) + len(domain) and origin.startswith(scheme) and origin.endswith(domain)
            for scheme, domain in self.below
        )
