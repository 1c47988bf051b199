"""Where an application runs, and what its node's configuration says to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.errors import UsageError
from node.patience import CONNECT_TIMEOUT_S

T = TypeVar("T")


class NotInANode(UsageError):
    """The application asks where it runs, and it does not run in a node."""


class Bound(Generic[T]):
    """An attribute that a Server has once a node has bound it.  Raises NotInANode outside `python -m node`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._kept_as = name, f"_{name}"

    def __get__(self, server: Any, owner: type | None = None) -> T:
        value: T | None = getattr(server, self._kept_as, None)
        if value is None:
            raise NotInANode(f"sio.{self._name}: this server does not run in a node; start it with `python -m node`")
        return value


@dataclass(frozen=True)
class NodeInfo:
    """Where an application runs: `name` is unique in its `cluster`; `host` and `port` are what the node announces."""

    name: str
    cluster: str
    host: str
    port: int
    incarnation: str
    """Differs for each process that ever had this name."""


@dataclass(frozen=True)
class EngineLimits:
    """The configuration's values for options that the user did not give to `Server`.  Times in seconds."""

    ping_interval: float
    ping_timeout: float
    max_http_buffer_size: int
    slow_consumer_bytes: int = 2**20
    compression: bool = False
    connect_timeout: float = CONNECT_TIMEOUT_S
    ordered: bool = False
