"""The PROXY protocol, versions 1 and 2: who a proxy in front of us says that its client is.  Pure.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; sections are named by their numbers there.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from cluster.proxies import canonical
from lb.errors import BadRequest

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_MOST_V1 = 107
"""The longest line of version 1, with its end (2.1)."""

MOST_V2 = 1024
"""Bytes behind a version 2 header that we read: addresses and TLVs.  More than any proxy sends."""

_ADDRESS_BYTES = {1: 4, 2: 16}
"""By address family (2.2): AF_INET, AF_INET6."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What was read: the client's address, None if the proxy speaks for itself, and how many bytes said so."""

    client: str | None
    size: int


def read_header(received: bytes) -> ProxyHeader | None:
    """Return the header that `received` begins with, or None while more must come.  Raises BadRequest."""
    if received.startswith(_SIGNATURE):
        return _version_2(received)
    if received.startswith(b"PROXY "):
        return _version_1(received)
    if _SIGNATURE.startswith(received) or b"PROXY ".startswith(received):
        return None
    raise BadRequest("a trusted proxy sent no PROXY protocol header (lb.proxy_protocol)")


def _version_1(received: bytes) -> ProxyHeader | None:
    line, end, _ = received[:_MOST_V1].partition(b"\r\n")
    if not end:
        if len(received) >= _MOST_V1:
            raise BadRequest("a PROXY protocol line without an end")
        return None
    size = len(line) + 2
    match line.split(b" "):
        case [b"PROXY", b"UNKNOWN", *_]:
            return ProxyHeader(None, size)
        case [b"PROXY", (b"TCP4" | b"TCP6") as family, source, destination, *ports] if len(ports) == 2:
            version = 4 if family == b"TCP4" else 6
            _address(destination, version)
            if all(port.isdigit() and int(port) < 65536 for port in ports):
                return ProxyHeader(_address(source, version), size)
    raise BadRequest(f"no PROXY protocol line: {line!r}")


def _address(text: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        address = None
    # Python takes anything for a zone (fe80::1%…), a comma or a line's end among it; the protocol has none (2.1).
    if address is None or address.version != version or b"%" in text:
        raise BadRequest(f"no IPv{version} address in a PROXY protocol line: {text!r}")
    return canonical(str(address))


def _version_2(received: bytes) -> ProxyHeader | None:
    if len(received) < 16:
        return None
    command, family, length = struct.unpack_from("!BBH", received, 12)
    if command not in (0x20, 0x21):
        raise BadRequest(f"a PROXY protocol header of unknown version or command: {command:#x}")
    if length > MOST_V2:
        raise BadRequest(f"a PROXY protocol header of {length} bytes; allowed: {MOST_V2}")
    size = 16 + length
    if len(received) < size:
        return None
    taken = _ADDRESS_BYTES.get(family >> 4)
    if command == 0x20 or taken is None:  # LOCAL, or a family that names no address (2.2): the proxy itself
        return ProxyHeader(None, size)
    if length < 2 * taken + 4:
        raise BadRequest("a PROXY protocol header that is too short for its addresses")
    return ProxyHeader(canonical(str(ipaddress.ip_address(received[16 : 16 + taken]))), size)
