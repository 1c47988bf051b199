"""A supervisor that was killed left nodes that still serve: take them over, clients and all.

They go on in their run directory, which becomes ours, so that every path stays as it is: their handoff sockets, the
embedded Redis, the configuration that they read.  What does not run as the configuration asks for by now is replaced
afterwards, one node at a time, as a reload does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cluster import embedded, leftovers
from cluster.birth import can_hold
from cluster.child import Child, Spec
from cluster.config import EMBEDDED, Config, Endpoint
from cluster.config_file import ConfigError, Loaded, load
from cluster.errors import StartError
from cluster.host import reached_at
from cluster.leftovers import Estate, Left
from cluster.listening import check_free
from cluster.process import Survivor
from cluster.supervisor import Supervisor
from cluster.version import version
from lb.changes import fits
from lb.roster import Roster

log = logging.getLogger(__name__)

Probe = Callable[[], Awaitable[bool]]

HEALTH_WITHIN_S = 2.0


@dataclass(frozen=True)
class Heir:
    """A node that still serves, and what it was started with."""

    left: Left
    port: int
    roster: Roster

    def fits(self, wanted: Roster) -> bool:
        """Return whether it is what `wanted` asks for on its port."""
        return (
            self.left.name == wanted.node_name(self.port)
            and self.left.facts.get("version") == version()
            and self.roster.base == wanted.base
            and fits(self.roster.config, wanted.config)
        )

    @property
    def spec(self) -> Spec:
        """How to run it again as it is."""
        return replace(self.roster.node(self.port), name=self.left.name)


@dataclass(frozen=True)
class Takeover:
    """What of an estate is taken over: its nodes, its Redis if that is embedded, and workers while they drain."""

    estate: Estate
    heirs: tuple[Heir, ...]

    @property
    def ports(self) -> set[int]:
        return {heir.port for heir in self.heirs}

    @property
    def secret(self) -> str:
        """The cluster's secret as they have it."""
        return self.heirs[0].roster.config.secret

    def take(self, supervisor: Supervisor, redis: Spec | None) -> Taken:
        """Make children of them; nothing is awaited, so that no report is written that names only some of them.

        `redis` says how to run the embedded Redis, if there is one.
        """
        found = [redis and _taken(supervisor, left, redis) for left in self.estate.kind("redis")]
        nodes: dict[int, Child] = {}
        for heir in self.heirs:
            if (child := _taken(supervisor, heir.left, heir.spec, _probe(heir))) is not None:
                nodes[heir.port] = child
        workers = [_taken(supervisor, left, _ending(left)) for left in self.estate.kind("worker")]
        taken = Taken(nodes, next((child for child in found if child), None), [child for child in workers if child])
        for child in taken.workers:
            # They end already; this only sees to it that they do in time.
            child.ask_to_stop()
        log.warning(
            "taking over from a supervisor that died: its nodes go on, with their clients",
            extra={
                "supervisor": self.estate.supervisor,
                "nodes": " ".join(child.name for child in nodes.values()),
                "redis": "adopted" if taken.redis else "new" if redis else "not ours",
                "directory": str(self.estate.run_dir.path),
            },
        )
        return taken


@dataclass(frozen=True)
class Taken:
    """Children that were another supervisor's."""

    nodes: dict[int, Child]
    """By port."""
    redis: Child | None
    workers: list[Child]
    """They drain."""


def settle(base: Path, loaded: Loaded) -> Takeover | None:
    """Return what of the dead's in `base` can be taken over for `loaded`; end all else that holds one of its ports.

    Blocks for as long as that takes.  Call it while `starting_up` (cluster/rundir.py).
    """
    config = loaded.config
    doors = [each for each in (config.lb.listen, config.lb.admin, config.lb.tls.redirect) if each is not None]
    ports = {*config.local_ports, *(door.port for door in doors)}
    dead = leftovers.estates(base)
    takeover = find(dead, loaded)
    for estate in dead:
        if takeover is None or estate is not takeover.estate:
            leftovers.clear(estate, ports)
    if takeover is not None:
        kept = {heir.left.pid for heir in takeover.heirs}
        others = [left for left in takeover.estate.kind("node") if left.pid not in kept and left.uses(ports)]
        leftovers.end(others)
        leftovers.vacate(takeover.estate, lambda: all(map(_is_free, doors)))
    return takeover


def find(estates: Iterable[Estate], loaded: Loaded) -> Takeover | None:
    """Return the takeover of the estate that is ours: rather the one of the same file, else that with most nodes."""
    if not can_hold():
        return None
    found = [takeover for estate in estates if (takeover := _takeover(estate, loaded)) is not None]
    return max(found, key=lambda each: (each.estate.file == file_of(loaded), len(each.heirs)), default=None)


def file_of(loaded: Loaded) -> str:
    """Return by what a supervisor's report names its configuration."""
    return str(loaded.file or loaded.base)


def _takeover(estate: Estate, loaded: Loaded) -> Takeover | None:
    config = loaded.config
    heirs = tuple(_heirs(estate))
    is_ours = estate.file == file_of(loaded) or any(heir.left.uses(config.local_ports) for heir in heirs)
    if not heirs or not is_ours:
        return None
    if reason := _obstacle(heirs[0].roster.config, config, estate):
        log.warning("nodes of a supervisor that died are not taken over", extra={"changed": reason})
        return None
    return Takeover(estate, heirs)


def _heirs(estate: Estate) -> Iterable[Heir]:
    for left in estate.kind("node"):
        if not left.goes_on:
            continue
        try:
            file, base, port = Path(left.facts["config"]), Path(left.facts["base"]), int(left.facts["port"])
            yield Heir(left, port, Roster(load(file).config, base, estate.run_dir, file))
        except (ConfigError, LookupError, TypeError, ValueError) as exc:
            # Another version's, or somebody has tidied up.
            log.warning("node not taken over", extra={"node": left.name, "reason": str(exc)})


def _obstacle(before: Config, now: Config, estate: Estate) -> str:
    """Return which key keeps the nodes that run with `before`, resolved, out of the cluster that `now` describes."""
    redis = EMBEDDED if before.redis == embedded.url(estate.run_dir) else before.redis
    if before.cluster != now.cluster:
        return "cluster"
    return "redis" if redis != now.redis else ""


def _taken(supervisor: Supervisor, left: Left, spec: Spec, probe: Probe | None = None) -> Child | None:
    survivor = Survivor.hold(left.pid, left.born)
    if survivor is None:
        return None
    survivor.probe = probe
    survivor.restarts = int(left.facts.get("restarts", 0))
    return supervisor.start(spec, survivor)


def _ending(left: Left) -> Spec:
    """Return the spec of a process that will not be started again."""
    facts = {key: left.facts[key] for key in ("kind", "ports") if key in left.facts}
    return Spec(name=left.name, argv=(), stop_within_s=left.stop_within_s, facts=facts)


def _probe(heir: Heir) -> Probe:
    address = Endpoint(reached_at(heir.roster.config.nodes.host), heir.port)
    return partial(serves, address)


async def serves(address: Endpoint) -> bool:
    """Return whether a node answers at `address`, and does not say that it is leaving."""
    try:
        async with asyncio.timeout(HEALTH_WITHIN_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(f"GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                # An application may have a page of its own there.
                return (await reader.readline()).split()[1:2] not in ([], [b"503"])
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


def _is_free(endpoint: Endpoint) -> bool:
    try:
        check_free(endpoint, "")
    except StartError:
        return False
    return True
