"""The origin of a web page, in the one spelling that browsers give it (RFC 6454 6.2).  Pure."""

from __future__ import annotations

import ipaddress
import re

_NAME = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?"
_ORIGIN = re.compile(
    rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>{_NAME}|\[[0-9A-Fa-f:.]+\]|)(?::(?P<port>[0-9]{{1,5}}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

NULL = "null"
"""The origin of a page that has none: a sandboxed frame, a `data:` URL, on some systems a local file."""

ANY_SUBDOMAIN = "*."


def canonical(text: str) -> str | None:
    """Return `scheme://host[:port]`, in lower case and without the scheme's own port; None if `text` is none.

    Only the schemes of the web must have a host: what an application's shell calls `file://` is an origin as well.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), int(found["port"] or 0)
    if not host and (found["port"] or scheme in _DEFAULT_PORTS):
        return None
    if found["port"] and not 0 < port < 2**16:
        return None
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return f"{scheme}://{host}:{port}" if port and port != _DEFAULT_PORTS.get(scheme) else f"{scheme}://{host}"


def canonical_pattern(text: str) -> str | None:
    """Return what `lb.allowed_origins` may say: an origin, `null`, or `scheme://*.domain[:port]`; None for all else."""
    if text == NULL:
        return NULL
    scheme, mark, rest = text.partition("://")
    if not rest.startswith(ANY_SUBDOMAIN):
        return canonical(text)
    domain = canonical(scheme + mark + rest.removeprefix(ANY_SUBDOMAIN))
    if domain is None or domain.endswith(mark) or mark + "[" in domain:
        return None
    return domain.replace(mark, mark + ANY_SUBDOMAIN, 1)
