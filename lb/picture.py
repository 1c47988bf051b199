"""Which of the registry's records the balancer believes.  No I/O: records and time are arguments."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cluster.config import Config
from cluster.handoff import socket_path
from cluster.host import host_id, reached_at, slot_name
from cluster.member import NodeRecord, State
from lb.pool import Pool

log = logging.getLogger(__name__)


def add_configured(pool: Pool, config: Config, run_dir: Path | None = None) -> None:
    """Add to `pool` the nodes that the configuration names: they need not announce themselves.

    `run_dir` is where the local ones have their handoff sockets, None if nothing is handed to them.
    """
    nodes = config.nodes
    for port in config.local_ports:
        node = pool.add_static(reached_at(nodes.host), port, slot_name(port, private_redis=config.has_private_redis))
        node.local = True
        if run_dir is not None:
            node.handoff = str(socket_path(run_dir, node.name))
    for url in nodes.static:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        pool.add_static(parts.hostname, parts.port)


class Admission:
    """Leaves out records that cannot be ours to balance, and says so once for each process."""

    def __init__(self, pool: Pool, *, discover: bool, our_host: str = "") -> None:
        self._pool = pool
        self._discover = discover
        self._our_host = our_host or host_id()
        self._refused: dict[str, str] = {}

    def admitted(self, records: Iterable[NodeRecord]) -> list[NodeRecord]:
        """Return those of `records` that may enter the pool."""
        records = list(records)
        taken = [record for record in records if self._is_wanted(record) and self._is_reachable(record)]
        names = {record.name for record in records}
        self._refused = {name: incarnation for name, incarnation in self._refused.items() if name in names}
        return taken

    def _is_wanted(self, record: NodeRecord) -> bool:
        if self._discover:
            return True
        return any(
            node.name == record.name or node.configured == (record.host, record.port)
            for node in self._pool
            if node.static
        )

    def _is_reachable(self, record: NodeRecord) -> bool:
        if not record.host_id or record.host_id == self._our_host or not _is_local(record.host):
            return True
        if self._refused.get(record.name) != record.incarnation:
            self._refused[record.name] = record.incarnation
            log.warning(
                "node ignored: it runs on another host but announces an address that only its own host reaches;"
                " set nodes.host or nodes.advertise there",
                extra={"node": record.name, "host": record.host, "port": record.port, "host_id": record.host_id},
            )
        return False


@dataclass(frozen=True)
class _Held:
    record: NodeRecord
    renewed_at: float
    """When we first read this very record, in monotonic seconds: its lease runs from about then."""


class Picture:
    """The last records, and which of them still count although a new reading of the registry does not have them.

    A missing record is a node that signed off, a lease that ended, or a Redis that forgot: emptied, restarted, failed
    over to a replica that lagged.  Nodes that live announce themselves again with their next heartbeat, so a record is
    believed until its lease ends by our own clock, unless its node said that it leaves (and not by an order: then it
    stays).
    """

    def __init__(self, pool: Pool, lease_s: float) -> None:
        self._pool = pool
        self._lease_s = lease_s
        self._held: dict[str, _Held] = {}

    def redis_came_back(self, now: float) -> None:
        """Begin all leases anew: their heartbeats went unheard while Redis was away."""
        self._held = {name: _Held(held.record, now) for name, held in self._held.items()}

    def take(self, records: Iterable[NodeRecord], noticed: Collection[str], now: float) -> list[NodeRecord]:
        """Return what to believe, having read `records` at `now` (monotonic seconds).

        `noticed` are the names that the registry's channel told us since the reading before.
        """
        found = {}
        for record in records:
            before = self._held.get(record.name)
            found[record.name] = before if before is not None and before.record == record else _Held(record, now)
        heard_at = max((held.renewed_at for held in found.values()), default=-math.inf)
        believed = {}
        for name, held in self._held.items():
            # Sign-offs are announced, lost leases and lost memories are not.
            if name not in found and name not in noticed and self._counts(held, now, heard_at):
                believed[name] = held
        self._held = believed | found
        return [held.record for held in self._held.values()]

    def _counts(self, held: _Held, now: float, heard_at: float) -> bool:
        """Tell whether a missing record counts; `heard_at` is when another node renewed its own last."""
        node = self._pool.nodes.get(held.record.name)
        stays = node is not None and node.drain is not None
        if held.record.state is State.DRAINING and not stays:
            return False
        if now - held.renewed_at < self._lease_s:
            return True
        # All nodes fell silent, a heartbeat or two apart, yet this one answers its probes: it is the nodes that cannot
        # reach Redis (or Redis that takes no writes).  To throw out every node would turn that into an outage.
        if heard_at - held.renewed_at >= self._lease_s / 2:
            return False
        return node is not None and (node.state is State.READY or (stays and node.state is State.DRAINING))


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
