"""What form a Redis URL must have.  `cluster/redis_address.py` reads those that pass, and lists what they may say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.config_values import HOST, PORT

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


def checked_url(value: str) -> str:
    """Return `value`, which begins with one of `SCHEMES`.  Raises ValueError that says what is allowed behind it."""
    scheme = value.partition("://")[0]
    shape = _SHAPES.get(scheme, _SHAPE)
    if not re.fullmatch(shape.pattern, value.partition("://")[2]):
        raise ValueError(f"is no {scheme} URL; allowed: {scheme}://{shape.example}")
    _check_options(scheme, value.partition("?")[2])
    return value


def _check_options(scheme: str, query: str) -> None:
    """Raise ValueError for an option that redis-py would stumble over, or that is ours to choose."""
    allowed = _OPTIONS | (_TLS_OPTIONS if scheme == "rediss" else {})
    seen = set()
    for option in query.split("&") if query else ():
        name, _, given = option.partition("=")
        if name in seen:
            raise ValueError(f"has the option {name} twice")
        seen.add(name)
        if not re.fullmatch(allowed.get(name, "(?!)"), given):
            raise ValueError(
                f"has an option {name} that is unknown, or a value of it that cannot be;"
                f" allowed behind the ?: {', '.join(allowed)}"
            )


_OPTIONS = {"db": r"\d{1,9}", "protocol": "[23]", "client_name": r"[!-~]+"}
_TLS_OPTIONS = {
    "ssl_ca_certs": r"[!-~]+",
    "ssl_certfile": r"[!-~]+",
    "ssl_keyfile": r"[!-~]+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": "true|false",
}
"""Options of a URL, each with what its value must match.  No password: those would be shown in logs."""


@dataclass(frozen=True)
class _Shape:
    pattern: str
    example: str


_USER = r"(?:[^\s@/?#\[\]]*@)?"
_SHAPE = _Shape(rf"{_USER}{HOST}{PORT}?(?:/\d*)?(?:\?\S*)?", "[user:password@]host[:port][/database]")
_SHAPES = {
    "unix": _Shape(rf"{_USER}/[^\s?#]+(?:\?\S*)?", "/path/of/socket[?db=database]"),
    "redis+sentinel": _Shape(
        rf"{_USER}{HOST}{PORT}?(?:,{HOST}{PORT}?)*(?:/\d*(?:/[^\s/?#]+)?)?",
        "[user:password@]host[:port][,host[:port]…]/database/service",
    ),
    # A Redis Cluster has one database.
    "redis+cluster": _Shape(
        rf"{_USER}{HOST}{PORT}?(?:,{HOST}{PORT}?)*(?:/0?)?", "[user:password@]host[:port][,host[:port]…]"
    ),
}
