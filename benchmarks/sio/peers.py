"""Socket.IO servers to compare: a node of ours and Node.js', one process each; and a whole stack of each.

All run the same application, benchmarks/sio/app.py and benchmarks/js/server.mjs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, BenchmarkError, family, version_of
from benchmarks.peers import ANY_PACE, START_S, Peer, free_port, nginx, running
from benchmarks.stacks import HANDOFF, Stack, until
from cluster import embedded
from cluster.errors import StartError
from tests.support.ports import free_ports

APP = "benchmarks.sio.app:sio"
FLOTILLA, NODE_JS = "Flotilla", "Node.js"
NODES = 3
JS = ROOT / "benchmarks" / "js"
BALANCER, SERVERS, REDIS = "balancer", "servers", "redis"


@dataclass(frozen=True)
class Server:
    """Something that serves Socket.IO on a port of loopback, and the processes that do it, by what they are."""

    name: str
    port: int
    processes: dict[str, list[int]]


def node_program(name: str) -> str:
    """Return the path of Node.js.  Raises BenchmarkError if it, or what it shall run, is not installed."""
    found = shutil.which(name)
    if found is None:
        raise BenchmarkError(f"there is no {name}; install it (apt install nodejs npm), or name it with --node")
    if not (JS / "node_modules" / "socket.io").is_dir():
        raise BenchmarkError("Socket.IO for Node.js is not installed; run: npm ci --prefix benchmarks/js")
    return found


def node_facts(program: str) -> dict[str, str]:
    """Return what the peer consists of."""
    return {"peer": version_of([program, str(JS / "server.mjs"), "--version"])}


@contextmanager
def our_node(directory: Path, app: str) -> Iterator[Server]:
    """Run one node of ours, alone."""
    config = directory / "config.yaml"
    config.write_text(json.dumps({"log": {"level": "warning"}}), encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "node", "--config", str(config), "--port", str(port)]
    with running("node", [*command, "--app", app, "--redis", "none"], port, directory) as peer:
        yield Server(FLOTILLA, port, {SERVERS: family(peer.pid)})


@contextmanager
def node_js(directory: Path, program: str) -> Iterator[Server]:
    """Run one server of Node.js, alone."""
    with _node_js(directory, program, "node.js") as peer:
        yield Server(NODE_JS, peer.port, {SERVERS: family(peer.pid)})


@contextmanager
def our_stack(directory: Path, app: str, handshakes_per_s: float = ANY_PACE) -> Iterator[Server]:
    """Run our whole stack: supervisor, one balancer worker, three nodes, and the embedded Redis.

    The balancer lets in so many new clients a second.
    """
    base = directory / "flotilla"
    base.mkdir()
    port, admin_port = free_port(), free_port()
    config = base / "config.yaml"
    content = stack_config(port, admin_port, _free_ports(NODES), app, handshakes_per_s)
    config.write_text(content, encoding="utf-8")
    with running("flotilla", [sys.executable, "-m", "lb", "--config", str(config)], port, base) as peer:
        stack = Stack(peer, admin_port, node_port=0)
        nodes = until(lambda: _ready_nodes(stack), START_S, f"not all {NODES} nodes are ready and handed off to")
        redis = [child.pid for child in stack.children().values() if child.name == embedded.NAME and child.pid]
        processes = {SERVERS: _families(nodes), REDIS: _families(redis)}
        others = {pid for pids in processes.values() for pid in pids}
        yield Server(FLOTILLA, port, {BALANCER: [pid for pid in family(peer.pid) if pid not in others]} | processes)
    shutil.rmtree(base)


def stack_config(port: int, admin_port: int, first_port: int, app: str, handshakes_per_s: float = ANY_PACE) -> str:
    """Return a configuration of ours: everything as it comes, but for addresses, application and the pace."""
    sections = {
        "lb": {
            "listen": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{admin_port}",
            "drain_s": 1,
            "handshakes_per_s": handshakes_per_s,
        },
        "nodes": {"local": NODES, "first_port": first_port, "app": app, "drain_s": 1, "handshakes_per_s": ANY_PACE},
        "log": {"level": "warning"},
    }
    return json.dumps(sections, indent=2)  # JSON is YAML


@contextmanager
def their_stack(directory: Path, program: str, nginx_program: str, connections: int) -> Iterator[Server]:
    """Run nginx with `ip_hash`, three servers of Node.js with @socket.io/redis-adapter, and a Redis like ours."""
    base = directory / "nodejs"
    base.mkdir()
    with ExitStack() as started:
        redis = started.enter_context(_valkey(base))
        servers = [
            started.enter_context(_node_js(base, program, f"n{number}", "--redis", _SOCKET)) for number in range(NODES)
        ]
        front = started.enter_context(
            nginx(base, nginx_program, servers[0], connections, more_backends=servers[1:]),
        )
        pids = {BALANCER: [front.pid], SERVERS: [each.pid for each in servers], REDIS: [redis.pid]}
        yield Server(NODE_JS, front.port, {name: _families(each) for name, each in pids.items()})
    shutil.rmtree(base)


_SOCKET = "valkey.sock"
"""Relative to the directory in which all of them run: the path of a unix socket must be short."""


@contextmanager
def _node_js(directory: Path, program: str, name: str, *more: str) -> Iterator[Peer]:
    port = free_port()
    # env(1) becomes the program, so that its pid is the server's.
    command = ["env", "NODE_ENV=production", program, str(JS / "server.mjs"), "--port", str(port), "--name", name]
    with running(name, [*command, *more], port, directory) as peer:
        yield peer


@contextmanager
def _valkey(directory: Path) -> Iterator[Peer]:
    """Run the server that our stack embeds, as it does: on a unix socket, without persistence."""
    try:
        program = str(embedded.binary())
    except StartError as exc:
        raise BenchmarkError(str(exc)) from None
    options = {"port": "0", "unixsocket": _SOCKET, "save": "", "appendonly": "no", "loglevel": "warning"}
    command = [program, *(word for key, value in options.items() for word in (f"--{key}", value))]
    with running("valkey", command, 0, directory, answers=lambda: _pings(directory)) as peer:
        yield peer


def _pings(directory: Path) -> bool:
    inside = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(2)
            asking.connect(f"/proc/self/fd/{inside}/{_SOCKET}")
            asking.sendall(b"PING\r\n")
            return asking.recv(16) == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        os.close(inside)


def _ready_nodes(stack: Stack) -> list[int] | None:
    """Return the nodes' pids, once clients are handed to all of them."""
    nodes = [node for node in stack.nodes() if node["state"] == "ready" and node["path"] == HANDOFF]
    return [int(node["pid"]) for node in nodes] if len(nodes) == NODES else None


def _families(pids: Sequence[int]) -> list[int]:
    return [each for pid in pids for each in family(pid)]


def _free_ports(count: int) -> int:
    try:
        return free_ports(count)
    except RuntimeError as exc:
        raise BenchmarkError(str(exc)) from None
