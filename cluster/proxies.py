"""Whose word on a client's address counts: the proxies that `lb.trusted_proxies` names.  Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPAddress | None:
    """Read an address as X-Forwarded-For may give it: with a port, in brackets, IPv4 mapped into IPv6."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def canonical(address: str) -> str:
    """Return `address` as everybody writes it; what is none, unchanged."""
    return str(parse_address(address) or address)


@dataclass(frozen=True)
class TrustedProxies:
    """Whose X-Forwarded-For we believe (`lb.trusted_proxies`)."""

    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def of(cls, networks: Sequence[str]) -> TrustedProxies:
        return cls(tuple(ipaddress.ip_network(network, strict=False) for network in networks))

    def __contains__(self, address: IPAddress | None) -> bool:
        return address is not None and any(address in network for network in self.networks)

    def client_of(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """Return the client's address: the peer's, or if that is trusted the rightmost one that is not.

        Each proxy appends whom it saw, so from the right every entry is as good as the proxy that wrote it.  What
        cannot be read ends the walk: the last address that could be is the client.
        """
        if not self.networks:
            return canonical(peer)
        seen = parse_address(peer)
        if seen not in self:
            return canonical(peer)
        # RFC 9110 5.6.1: an empty field adds nothing to the list; nor does it to the one that the node gets.
        entries = b",".join(filter(None, forwarded_for)).decode("latin-1").split(",")
        for entry in reversed(entries):
            address = parse_address(entry)
            if address is None:
                break
            seen = address
            if address not in self:
                break
        return str(seen)
