"""What a Redis URL says: which servers, and how to talk to them.  `cluster/config.py` has checked its form.

redis://, rediss:// (TLS)      [user:password@]host[:port][/database][?option=value…]
unix://                        [user:password@]/path/of/socket[?db=database]
redis+sentinel://              [user:password@]host[:port][,host[:port]…][/database[/service]]
redis+cluster://               [user:password@]host[:port][,host[:port]…]
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qsl, unquote

REDIS_PORT = 6379
SENTINEL_PORT = 26379
SERVICE = "mymaster"


class Topology(Enum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Server:
    """Where one server listens: a host and a port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


@dataclass(frozen=True)
class RedisAddress:
    """`servers` are the server itself, or the sentinels, or some nodes of the cluster, as the topology says."""

    topology: Topology
    servers: tuple[Server, ...]
    username: str = ""
    password: str = field(default="", repr=False)
    client_name: str = ""
    database: int = 0
    service: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False)


def parse(url: str) -> RedisAddress:
    """Read a URL that the configuration let pass.  Raises OSError if a file with certificates cannot be read."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    authority, slash, path = rest.partition("/")  # behind it, the path of a socket or a service may hold an @
    user_info, at, hosts = authority.rpartition("@")
    user, _, password = user_info.partition(":") if at else ("", "", "")
    who = (unquote(user), unquote(password), options.get("client_name", ""))
    if scheme == "unix":
        server = Server(path=unquote(slash + path))
        return RedisAddress(Topology.SINGLE, (server,), *who, database=int(options.get("db", 0)))
    database, _, service = path.partition("/")
    if scheme == "redis+sentinel":
        sentinels = tuple(server_at(host, SENTINEL_PORT) for host in hosts.split(","))
        return RedisAddress(Topology.SENTINEL, sentinels, *who, database=int(database or 0), service=service or SERVICE)
    servers = tuple(server_at(host, REDIS_PORT) for host in hosts.split(","))
    if scheme == "redis+cluster":
        return RedisAddress(Topology.CLUSTER, servers, *who)
    tls = _tls(options) if scheme == "rediss" else None
    return RedisAddress(Topology.SINGLE, servers, *who, database=int(options.get("db") or database or 0), tls=tls)


def server_at(text: str, port: int) -> Server:
    """Read `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; `port` is the default."""
    match = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+)(?::(\d+))?", text)
    assert match is not None, f"the configuration let {text!r} pass"
    return Server(match[1] or match[3], int(match[2] or match[4] or port))


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """As redis-py: certificates are checked unless the URL says otherwise."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    context.check_hostname = options.get("ssl_check_hostname", "true") == "true"
    need = options.get("ssl_cert_reqs", "required")
    if need == "none":
        context.check_hostname = False
    context.verify_mode = {
        "none": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }[need]
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
