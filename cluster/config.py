"""The configuration: frozen, typed, with units in the names.  `cluster/config_file.py` reads it from YAML.

Every key has a default and an empty file runs the demo.  Nothing in the program reads the raw dictionary.
What a single value may be is in `cluster/config_values.py` and `cluster/redis_url.py`.
Relations between keys are checked by `cluster/relations.py`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from cluster.config_values import (
    App,
    Bytes,
    BytesOrAny,
    Host,
    HostOrNone,
    Network,
    NodeUrl,
    Origin,
    PerSecond,
    ProbePath,
    Seconds,
    SecondsOrOff,
    Token,
    Weights,
)
from cluster.redis_url import SCHEMES, checked_url

EMBEDDED = "embedded"
NO_REDIS = "none"
AUTO = 0
MOST_WORKERS = 256
MOST_DRAIN_S = 366 * 86400


@dataclass(frozen=True)
class Endpoint:
    """A TCP address to listen on: `host` may be a name, an IPv4 or an IPv6 address (without brackets)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_endpoint(value: object) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`.  Raises ValueError that says what is allowed."""
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError("must be host:port, for example 0.0.0.0:8080")
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^\s:\[\]/]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise ValueError("must be host:port with a port from 0 to 65535, for example 0.0.0.0:8080 or [::]:8080")
    return Endpoint(match[1] or match[2], int(match[3]))


def _checked_redis(value: str) -> str:
    if value in (EMBEDDED, NO_REDIS):
        return value
    if not value.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise ValueError(f"must be {EMBEDDED}, {NO_REDIS} or a URL: {', '.join(s + '://…' for s in SCHEMES)}")
    return checked_url(value)


def _workers(value: object, checked: ValidatorFunctionWrapHandler) -> int:
    if value == "auto":
        return AUTO
    if isinstance(value, str):
        raise ValueError("is neither a whole number nor auto; allowed: auto, or a whole number, without quotes")
    return int(checked(value))


def _unquoted(value: object) -> object:
    """Take a version for what it looks like: YAML reads 1.2 without quotes as a number."""
    return str(value) if isinstance(value, float) else value


Workers = Annotated[
    int,
    Field(ge=1, le=MOST_WORKERS),
    WrapValidator(_workers),
    PlainSerializer(lambda count: count or "auto"),
]
Address = Annotated[Endpoint, BeforeValidator(parse_endpoint), PlainSerializer(str)]
AddressOrNone = Annotated[
    Endpoint | None,
    BeforeValidator(lambda value: None if value in ("", None) else parse_endpoint(value)),
    PlainSerializer(lambda endpoint: str(endpoint or "")),
]


class Section(BaseModel):
    """A part of the configuration.  Unknown keys and other types are refused, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class Stickiness(StrEnum):
    COOKIE = "cookie"
    IP_HASH = "ip_hash"
    NONE = "none"


class Balance(StrEnum):
    LEAST_CONNECTIONS = "least_connections"
    ROUND_ROBIN = "round_robin"
    RANDOM_TWO = "random_two"
    IP_HASH = "ip_hash"


class Health(Section):
    """How nodes are probed, and what those who are sent to them find.  An empty path switches that probe off."""

    interval_s: Seconds = 2.0
    timeout_s: Seconds = 2.0
    rise: Annotated[int, Field(ge=1, le=100)] = 1
    fall: Annotated[int, Field(ge=1, le=100)] = 3
    http_path: ProbePath = "/healthz"
    websocket_path: ProbePath = "/socket.io/?EIO=4&transport=websocket"
    slow_handshake_s: SecondsOrOff = 5.0
    eject_after: Annotated[int, Field(ge=0, le=10_000)] = 5
    eject_s: Seconds = 5.0
    most_eject_s: Seconds = 300.0
    panic_percent: Annotated[int, Field(ge=0, le=100)] = 50


class Cookie(Section):
    """Attributes of the sticky cookie (RFC 6265 4.1.2).  An empty name means `<cluster>_node`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)] = ""
    secure: bool = False
    same_site: Literal["lax", "strict", "none"] = "lax"


class TlsPair(Section):
    """A certificate and its key.  Paths as in `nodes.app`."""

    certificate: str = ""
    key: str = ""


class Tls(TlsPair):
    """TLS on the public address, and plain HTTP that only leads there; see docs/tls.md."""

    more: tuple[TlsPair, ...] = Field(default=(), strict=False)
    """For other names; who asks for a name that none has gets the pair above."""
    minimum: Annotated[Literal["1.2", "1.3"], BeforeValidator(_unquoted)] = "1.2"
    redirect: AddressOrNone = None
    redirect_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """The port in the redirect's Location; 0: the one that `lb.listen` has."""
    challenges: str = ""
    """A directory of which the redirect serves /.well-known/acme-challenge/ (RFC 8555 8.3)."""

    @property
    def is_on(self) -> bool:
        return bool(self.certificate)

    @property
    def pairs(self) -> dict[str, TlsPair]:
        """All of them by the key that names them, the first one first; none without TLS."""
        further = {f"lb.tls.more.{number}": pair for number, pair in enumerate(self.more)}
        return {"lb.tls": self, **further} if self.is_on else {}


class Lb(Section):
    """The balancer."""

    listen: Address = Endpoint("0.0.0.0", 8080)
    admin: Address = Endpoint("127.0.0.1", 8081)
    admin_token: Token = ""
    """What callers of the admin API must show; see lb/gate.py."""
    workers: Workers = 1
    """AUTO stands for `auto`: as many as cluster/host.py finds CPUs."""
    handoff: Literal["auto", "never"] = "auto"
    traceparent: Literal["make", "pass"] = "make"
    """Whether a request that comes without one gets one (W3C Trace Context); see cluster/trace.py."""
    stickiness: Annotated[Stickiness, Field(strict=False)] = Stickiness.COOKIE
    balance: Annotated[Balance, Field(strict=False)] = Balance.LEAST_CONNECTIONS
    cookie: Cookie = Cookie()
    tls: Tls = Tls()
    health: Health = Health()
    trusted_proxies: tuple[Network, ...] = Field(default=(), strict=False)
    proxy_protocol: bool = False
    """Connections from `trusted_proxies` begin with a PROXY protocol header, version 1 or 2."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    connections_per_address: Annotated[int, Field(ge=0)] = 0
    requests_per_s_per_address: PerSecond = 0.0
    request_burst_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    allowed_origins: tuple[Origin, ...] = Field(default=(), strict=False)
    """Empty: `Origin` is not looked at; see lb/origins.py."""
    other_upgrades: Literal["remove", "refuse"] = "remove"
    handshakes_per_s: PerSecond = 0.0
    handshake_wait_s: Annotated[float, Field(ge=0, le=15, allow_inf_nan=False)] = 3.0
    most_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 2000
    slow_start_s: SecondsOrOff = 10.0
    connect_timeout_s: Seconds = 3.0
    head_timeout_s: Seconds = 10.0
    max_head_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 32_768
    max_headers: Annotated[int, Field(ge=10, le=120)] = 100
    """No more than 120: a node reads 128, and some are added on the way (lb/headers.py)."""
    body_timeout_s: SecondsOrOff = 20.0
    """More by a second for each `min_body_bytes_per_s` that came; see lb/guards.py."""
    min_body_bytes_per_s: Annotated[int, Field(ge=0, le=2**30)] = 500
    max_body_bytes: BytesOrAny = 1_073_741_824
    idle_timeout_s: Seconds = 75.0
    answer_timeout_s: SecondsOrOff = 120.0
    tunnel_idle_s: SecondsOrOff = 0.0
    drain_s: SecondsOrOff = 10.0


class Nodes(Section):
    """The nodes: those that this supervisor runs, and those that the balancer finds elsewhere."""

    local: Annotated[int, Field(ge=0, le=1024)] = 3
    first_port: Annotated[int, Field(ge=1, le=65535)] = 3000
    host: Host = "127.0.0.1"
    advertise: HostOrNone = ""
    app: App = "node.chat:sio"
    static: tuple[NodeUrl, ...] = Field(default=(), strict=False)
    discover: bool = True
    weights: Weights = Field(default={}, strict=False)
    max_connections: Annotated[int, Field(ge=0)] = 0
    handshakes_per_s: PerSecond = 2000.0
    heartbeat_s: Seconds = 1.0
    lease_s: Seconds = 5.0
    presence_grace_s: SecondsOrOff = 2.0
    metrics_interval_s: Seconds = 30.0
    ping_interval_s: Seconds = 25.0
    ping_timeout_s: Seconds = 20.0
    max_message_bytes: Bytes = 1_000_000
    slow_consumer_bytes: Bytes = 1_048_576
    compression: bool = False
    connect_timeout_s: Seconds = 45.0
    ordered: bool = False
    drain_s: SecondsOrOff = 5.0
    close_per_s: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 100.0
    outlive_supervisor_s: SecondsOrOff = 60.0


class Bus(Section):
    """What nodes tell each other through Redis (docs/bus.md)."""

    outbox_bytes: Bytes = 16_777_216
    outbox_age_s: Seconds = 60.0
    canary_s: Seconds = 5.0
    bridge: Literal["none", "python-socketio"] = "none"


class Restart(Section):
    """When the supervisor starts a dead child again; see cluster/restart.py."""

    first_delay_s: Seconds = 0.1
    most_delay_s: Seconds = 10.0
    give_up_after: Annotated[int, Field(ge=1, le=10_000)] = 10
    window_s: Seconds = 60.0


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    access: bool = False
    """A line for each HTTP exchange, and two for each WebSocket; see lb/access.py."""


class Config(Section):
    """All of `config.yaml`."""

    cluster: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] = "flotilla"
    secret: Annotated[str, Field(max_length=1024, repr=False)] = ""
    redis: Annotated[str, AfterValidator(_checked_redis)] = EMBEDDED
    lb: Lb = Lb()
    nodes: Nodes = Nodes()
    bus: Bus = Bus()
    restart: Restart = Restart()
    log: Log = Log()

    @property
    def cookie_name(self) -> str:
        return self.lb.cookie.name or f"{self.cluster}_node"

    @property
    def has_private_redis(self) -> bool:
        """Whether no other host can share this Redis: there is none, or it is behind a unix socket, as the embedded."""
        return self.redis in (EMBEDDED, NO_REDIS) or self.redis.startswith("unix:")

    @property
    def local_ports(self) -> range:
        return range(self.nodes.first_port, self.nodes.first_port + self.nodes.local)

    def dumped(self) -> dict[str, Any]:
        """Return it as plain values that `Config.model_validate` reads again: what a supervisor gives its children."""
        return self.model_dump(mode="json")
