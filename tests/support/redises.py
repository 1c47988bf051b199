"""Several real servers that belong together: a master with its replica and sentinels, and a Redis Cluster."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.redis_address import RedisAddress, Server, Topology
from node.redis_socket import dialled
from tests.support.ports import free_port, free_ports
from tests.support.valkey import SERVER, Valkey, running_valkey
from tests.support.waiting import eventually

SERVICE = "chat"


@dataclass
class Watched:
    """A master, its replica, and the sentinels that watch them."""

    master: Valkey
    replica: Valkey
    sentinels: list[int]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/0/{SERVICE}"


async def asked(port: int, *words: bytes | str | int) -> Any:
    """Return what the server on `port` replies to a command.  Raises ConnectionError: not there, or an error."""
    server = Server("127.0.0.1", port)
    link = await dialled(server, RedisAddress(Topology.SINGLE, (server,)), greet=False)
    try:
        return await link.ask(*words)
    finally:
        link.abort("asked")


@contextmanager
def _started(*arguments: str) -> Iterator[Valkey]:
    directory = Path(tempfile.mkdtemp(prefix="flotilla-test-"))
    server = Valkey(directory, free_port())
    try:
        server.start(*arguments)
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def watched_by_sentinels(count: int = 3) -> AsyncIterator[Watched]:
    """Run a master, a replica that is in step, and sentinels that know each other."""
    with ExitStack() as stack:
        master = stack.enter_context(running_valkey())
        replica = stack.enter_context(
            _started("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        )
        first = free_ports(count)
        ports = [first + number for number in range(count)]
        await eventually(lambda: _has_replica(master), what="the replica is in step")
        for port in ports:
            stack.enter_context(_sentinel(port, master.port, quorum=count // 2 + 1))
        for port in ports:
            await eventually(partial(_knows_all, port, count), what="the sentinels know each other")
        yield Watched(master, replica, ports)


async def _knows_all(port: int, count: int) -> bool:
    raw = await asked(port, "SENTINEL", "MASTER", SERVICE)
    facts = dict(zip(raw[::2], raw[1::2], strict=True))
    return int(facts[b"num-other-sentinels"]) == count - 1 and int(facts[b"num-slaves"]) == 1


@contextmanager
def _sentinel(port: int, master_port: int, quorum: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="flotilla-test-") as directory:
        file = Path(directory, "sentinel.conf")
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        process = subprocess.Popen(
            [SERVER, str(file), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


@dataclass
class RedisCluster:
    """Three masters, each with the slots of a third, and one replica of the first."""

    masters: list[Valkey]
    replica: Valkey

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.masters)


@asynccontextmanager
async def redis_cluster() -> AsyncIterator[RedisCluster]:
    """Run a Redis Cluster that serves."""
    with ExitStack() as stack:
        servers = [stack.enter_context(_started(*_cluster_options())) for _ in range(4)]
        for number, server in enumerate(servers[:3]):
            first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            await asked(server.port, "CLUSTER", "ADDSLOTSRANGE", first, last)
            await asked(server.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            _, bus_port = await asked(server.port, "CONFIG", "GET", "cluster-port")
            await asked(servers[0].port, "CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)
        for server in servers:
            await eventually(partial(_is_complete, server), what="the cluster is complete")
        await asked(servers[3].port, "CLUSTER", "REPLICATE", await asked(servers[0].port, "CLUSTER", "MYID"))
        await eventually(lambda: _has_replica(servers[0]), what="the replica is in step")
        for server in servers:
            await eventually(partial(_is_up, server), what="the cluster is up")
        yield RedisCluster(servers[:3], servers[3])


def _cluster_options() -> list[str]:
    return [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
        "--cluster-node-timeout",
        "1000",
        "--cluster-port",
        str(free_port()),
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ]


async def _is_complete(server: Valkey) -> bool:
    info = await asked(server.port, "CLUSTER", "INFO")
    nodes = await asked(server.port, "CLUSTER", "NODES")
    return b"cluster_slots_ok:16384" in info and nodes.count(b" connected") == 4 and b"handshake" not in nodes


async def _is_up(server: Valkey) -> bool:
    return b"cluster_state:ok" in await asked(server.port, "CLUSTER", "INFO")


async def _has_replica(server: Valkey) -> bool:
    return len((await asked(server.port, "ROLE"))[2]) == 1
