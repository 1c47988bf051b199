"""What does a message to a room cost on each node, and in Redis?

    python benchmarks/bus.py [--rounds 3] [--seconds 4] [--batch 10] [--js DIRECTORY-WITH-node_modules]

Three servers of one kind share a Valkey: one emits to a room, one has a member of it, one has clients but no member.
CPU time per emit of each, less what it takes at rest; emits per second flat out; latency from emit to client.
Flotilla, python-socketio with AsyncRedisManager, and (with `--js`) Node.js with @socket.io/redis-adapter, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    # In place of this directory, where `import http` would find our http.py.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import aiohttp

from benchmarks.command_line import run, scratch, whole, write_json
from benchmarks.measure import ROOT, BenchmarkError, cpu_s, family, machine, version_of
from benchmarks.peers import Peer, free_port, running
from benchmarks.table import heading, line, ratio, shown
from cluster.embedded import binary

OURS, PYTHON, NODE_JS = "flotilla", "python-socketio", "node.js"
ROLES = ("emitting", "with a member", "without")
FLAT_OUT = 20_000
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Result:
    """One kind of server in one round; CPU time in µs per emit."""

    emitting_us: float
    member_us: float
    without_us: float
    redis_us: float
    per_second: float
    """Emits per second, as fast as the emitting node can."""
    p50_ms: float
    p99_ms: float
    lost: int


@contextmanager
def valkey(directory: Path) -> Iterator[tuple[Path, int]]:
    """Run a Valkey on a unix socket; give its path and its pid."""
    # Not in `directory`: the path of a unix socket has at most 107 bytes.
    path = Path("/tmp", f"flotilla-benchmark-{os.getpid()}.sock")
    options = [
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--unixsocketperm",
        "700",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(directory),
    ]
    with subprocess.Popen([str(binary()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 10
            while not path.exists():
                if time.monotonic() > until or process.poll() is not None:
                    raise BenchmarkError("Valkey did not start in 10 s")
                time.sleep(0.02)
            yield path, process.pid
        finally:
            process.kill()
            process.wait()
            path.unlink(missing_ok=True)


def command(kind: str, port: int, redis: Path, options: argparse.Namespace) -> Sequence[str]:
    """Return how a server of that kind is started."""
    if kind == NODE_JS:
        return ["node", str(ROOT / "benchmarks" / "js" / "bus.mjs"), str(port), str(redis), str(options.js.resolve())]
    if kind == PYTHON:
        return [sys.executable, "-m", "benchmarks.bus_app", str(port), str(redis)]
    app = ["--app", "benchmarks.bus_app:sio", "--redis", f"unix://{redis}"]
    return [sys.executable, "-m", "node", "--port", str(port), *app]


class Client:
    """One Socket.IO client over WebSocket, that keeps what it hears."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.latencies_ms: list[float] = []

    async def enter(self) -> None:
        await self._socket.send_str('421["enter"]')

    async def listen(self, connected: asyncio.Event, entered: asyncio.Event) -> None:
        """Answer pings, and note how old each event is, until the connection ends."""
        async for message in self._socket:
            now_us, text = time.monotonic_ns() // 1000, str(message.data)
            if text.startswith("42"):
                self.latencies_ms.append((now_us - json.loads(text[2:])[1]["at"]) / 1000)
            elif text == "2":
                await self._socket.send_str("3")
            elif text.startswith("0"):
                await self._socket.send_str("40")
            elif text.startswith("40"):
                connected.set()
            elif text.startswith("43"):
                entered.set()


async def measure(servers: Sequence[Peer], redis_pid: int, options: argparse.Namespace) -> Result:
    """Let the first server emit; the second has a client in the room, the third one that is not."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        group = await stack.enter_async_context(asyncio.TaskGroup())
        clients: list[Client] = []
        tasks: list[asyncio.Task[None]] = []
        for server in servers[1:]:
            url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
            client = Client(await session.ws_connect(url))
            connected, entered = asyncio.Event(), asyncio.Event()
            tasks.append(group.create_task(client.listen(connected, entered)))
            async with asyncio.timeout(PATIENCE_S):
                await connected.wait()
                if not clients:
                    await client.enter()
                    await entered.wait()
            clients.append(client)
        result = await _measured(session, servers, redis_pid, clients[0], options)
        for task in tasks:
            task.cancel()
    return result


async def _measured(
    session: aiohttp.ClientSession, servers: Sequence[Peer], redis_pid: int, member: Client, options: argparse.Namespace
) -> Result:
    pids = [*(family(server.pid) for server in servers), [redis_pid]]
    batch, every_ms = options.batch, 1000 * options.batch / options.rate
    count = options.rate * options.seconds // batch * batch
    await _emit(session, servers[0], member, batch * 50, batch, every_ms)
    rest = await _used(pids, asyncio.sleep(options.seconds))
    member.latencies_ms.clear()
    began = time.monotonic()
    used = await _used(pids, _emit(session, servers[0], member, count, batch, every_ms))
    took = time.monotonic() - began
    per_emit = [1e6 * (cpu - still * took / options.seconds) / count for cpu, still in zip(used, rest, strict=True)]
    latencies = sorted(member.latencies_ms)
    lost = count - len(latencies)
    member.latencies_ms.clear()
    began = time.monotonic()
    await _emit(session, servers[0], member, FLAT_OUT, 100, 0)
    per_second = FLAT_OUT / (time.monotonic() - began)
    emitting_us, member_us, without_us, redis_us = per_emit
    return Result(
        emitting_us,
        member_us,
        without_us,
        redis_us,
        per_second=per_second,
        p50_ms=latencies[len(latencies) // 2],
        p99_ms=latencies[len(latencies) * 99 // 100],
        lost=lost,
    )


async def _used(pids: Sequence[Sequence[int]], meanwhile: object) -> list[float]:
    before = [cpu_s(each) for each in pids]
    await meanwhile  # type: ignore[misc]
    return [cpu_s(each) - start for each, start in zip(pids, before, strict=True)]


async def _emit(
    session: aiohttp.ClientSession, server: Peer, member: Client, count: int, batch: int, every_ms: float
) -> None:
    """Let `server` emit, and wait until the member has heard it all, or nothing more comes."""
    heard = len(member.latencies_ms)
    query = {"count": str(count), "batch": str(batch), "every_ms": str(round(every_ms))}
    async with session.get(f"http://127.0.0.1:{server.port}/emit", params=query) as answer:
        if answer.status != 200:
            raise BenchmarkError(f"{server.name} answered {answer.status} to /emit")
    last, quiet = -1, 0
    while len(member.latencies_ms) - heard < count and quiet < 100:
        quiet = quiet + 1 if last == len(member.latencies_ms) else 0
        last = len(member.latencies_ms)
        await asyncio.sleep(0.02)


def measure_all(options: argparse.Namespace) -> int:
    kinds = [OURS, PYTHON, *([NODE_JS] if options.js else [])]
    results: dict[str, list[Result]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            with scratch("bus") as directory, ExitStack() as stack:
                redis, redis_pid = stack.enter_context(valkey(directory))
                servers = []
                for role in ROLES:
                    port = free_port()
                    name = f"{kind} {role}"
                    servers.append(
                        stack.enter_context(running(name, command(kind, port, redis, options), port, directory))
                    )
                results[kind].append(asyncio.run(measure(servers, redis_pid, options)))
    facts = machine()
    if options.js:
        facts["node.js"] = version_of(["node", "--version"])
    show(results, facts, options)
    write_json(options, facts, {kind: [asdict(each) for each in found] for kind, found in results.items()})
    lost = {kind: sum(each.lost for each in found) for kind, found in results.items()}
    if lost[OURS]:
        sys.stderr.write(f"messages lost: {lost}\n")
    return 1 if lost[OURS] else 0


ROWS = (
    ("CPU µs, emitting node", "emitting_us", 1),
    ("CPU µs, node with a member", "member_us", 1),
    ("CPU µs, node without", "without_us", 2),
    ("CPU µs, Redis", "redis_us", 1),
    ("emits per second, flat out", "per_second", 0),
    ("latency p50, ms", "p50_ms", 2),
    ("latency p99, ms", "p99_ms", 2),
    ("lost", "lost", 0),
)


def show(results: dict[str, list[Result]], facts: dict[str, str], options: argparse.Namespace) -> None:
    """Print the table: per emit, {batch} at once, at {rate} a second."""
    print(f"Emit to a room elsewhere: {options.rate} a second, {options.batch} at once, {options.seconds} s a round")
    print("\n".join(heading(facts)))
    print()
    print(line("", *results))
    for name, attribute, digits in ROWS:
        print(line(name, *(shown([getattr(each, attribute) for each in found], digits) for found in results.values())))
    print()
    ours = [each.emitting_us for each in results[OURS]]
    for kind, found in results.items():
        if kind != OURS:
            print(line(f"ours / {kind}, emitting", ratio(ours, [each.emitting_us for each in found])))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=whole(1), default=3, help="[3]")
    parser.add_argument("--seconds", type=whole(1), default=4, help="of each measurement [4]")
    parser.add_argument("--rate", type=whole(1), default=1000, help="emits per second [1000]")
    parser.add_argument("--batch", type=whole(1), default=10, help="emits at once [10]")
    parser.add_argument(
        "--js", type=Path, help="directory with node_modules (npm ci in benchmarks/js): measure Node.js"
    )
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    options = parser.parse_args()
    return run(options, lambda: measure_all(options))


if __name__ == "__main__":
    sys.exit(main())
