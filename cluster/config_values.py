"""What one value of the configuration may be: ranges of numbers, forms of text, each with the error that says so."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from cluster.origin import canonical_pattern
from cluster.tag import SLOT

HOST = r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:,@/?#\[\]]+)"
PORT = r"(?::(?!0+(?!\d))(?:[0-5]?\d{1,4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]))"
"""Patterns: a name, an IPv4 or a bracketed IPv6 address; a colon and a port up to 65535."""

# Nothing here is meant in microseconds; and YAML 1.1 reads 1e-05, as a small number is written, as text.
Seconds = Annotated[float, Field(ge=0.001, le=366 * 86400, allow_inf_nan=False)]
SecondsOrOff = Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
PerSecond = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=2**40)]
BytesOrAny = Annotated[int, Field(ge=0, le=2**50)]
Weight = Annotated[float, Field(ge=0.01, le=1000, allow_inf_nan=False)]


def _checked_node_url(value: str) -> str:
    match = re.fullmatch(rf"http://({HOST})({PORT}?)/?", value)
    port = int(match[2][1:] or 80) if match else 0
    if match is None or port == 0:
        raise ValueError("must be http://host:port, without user, path or query")
    return f"http://{match[1]}:{port}"


def _checked_network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be an IP address or a network, for example 10.0.0.0/8") from None
    return value


def _checked_app(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
        raise ValueError("must be module:attribute, for example node.chat:sio")
    return value


def _checked_token(value: str) -> str:
    # RFC 6750 2.1, b64token.
    if value and not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,512}=*", value):
        raise ValueError("must have 16 to 512 characters of A-Z a-z 0-9 . _ ~ + / - (or be empty: no token)")
    return value


def _checked_path(value: str) -> str:
    if not re.fullmatch(r"(?:/[!-~]*)?", value):
        raise ValueError("must begin with / and hold no spaces (or be empty: no such check)")
    return value


def _checked_host(value: str) -> str:
    if re.search(r"[\s/@\[\]?#]", value):
        raise ValueError("must be a host name or an IP address alone: no scheme, no port, no brackets")
    return value


def _checked_origin(value: str) -> str:
    pattern = canonical_pattern(value)
    if pattern is None:
        raise ValueError(
            "must be null, or scheme://host with an optional port and nothing behind it,"
            " for example https://chat.example.com or https://*.example.com"
        )
    return pattern


def _checked_names(value: Mapping[str, float]) -> Mapping[str, float]:
    for name in value:
        if not re.fullmatch(rf"{SLOT.pattern}|{HOST}{PORT}", name):
            raise ValueError(
                f"has a key {name!r} that can be no node's; allowed: names of nodes (n3000), host:port of nodes.static"
            )
    return value


NodeUrl = Annotated[str, AfterValidator(_checked_node_url)]
Network = Annotated[str, AfterValidator(_checked_network)]
App = Annotated[str, AfterValidator(_checked_app)]
Token = Annotated[str, AfterValidator(_checked_token), Field(repr=False)]
Host = Annotated[str, Field(min_length=1), AfterValidator(_checked_host)]
HostOrNone = Annotated[str, AfterValidator(_checked_host)]
Origin = Annotated[str, AfterValidator(_checked_origin)]
ProbePath = Annotated[str, AfterValidator(_checked_path)]
Weights = Annotated[Mapping[str, Weight], AfterValidator(_checked_names)]
