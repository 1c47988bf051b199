"""What is lost when Redis is killed under load?

    python benchmarks/outage.py [--outage 10] [--rate 200] [--js DIRECTORY-WITH-node_modules]

Three servers of one kind share a Valkey and emit to a room, `--rate` events a second all together; each has a member of
the room.  Valkey is killed (SIGKILL) for `--outage` seconds and started again, empty.  Every member should get every
event of every server once, in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

if __name__ == "__main__":
    # In place of this directory, where `import http` would find our http.py.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import aiohttp

from benchmarks.bus import NODE_JS, OURS, PYTHON, command, valkey
from benchmarks.command_line import run, scratch, whole, write_json
from benchmarks.measure import machine
from benchmarks.peers import Peer, free_port, running
from benchmarks.table import heading, line

SERVERS = 3
QUIET_S = 3.0


@dataclass
class Heard:
    """What one member heard: the numbers of each server's events."""

    numbers: dict[str, list[int]] = field(default_factory=dict)
    at: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Of all events that members should have got."""

    expected: int
    lost: int
    doubled: int
    reordered: int
    slowest_emit_s: float
    """How long a server took for its events, beyond what they should have taken."""


async def member(session: aiohttp.ClientSession, server: Peer, heard: Heard, entered: asyncio.Event) -> None:
    """Enter the room and listen; connect again if the server ends the connection."""
    url = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
    async with session.ws_connect(url) as socket:
        async for message in socket:
            text = str(message.data)
            if text.startswith("42"):
                event = json.loads(text[2:])[1]
                heard.numbers.setdefault(event["who"], []).append(event["n"])
                heard.at = time.monotonic()
            elif text == "2":
                await socket.send_str("3")
            elif text.startswith("0"):
                await socket.send_str("40")
            elif text.startswith("40"):
                await socket.send_str('421["enter"]')
            elif text.startswith("43"):
                entered.set()


async def suffer(servers: Sequence[Peer], redis: ExitStack, directory: Path, options: argparse.Namespace) -> Outcome:
    """Let all servers emit, and kill Redis meanwhile."""
    every_ms = 1000 * len(servers) / options.rate
    count = round((options.outage + 4) * 1000 / every_ms)
    heards = [Heard() for _ in servers]
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        listening = []
        for server, heard in zip(servers, heards, strict=True):
            entered = asyncio.Event()
            listening.append(group.create_task(member(session, server, heard, entered)))
            async with asyncio.timeout(20):
                await entered.wait()
        began = time.monotonic()
        emitting = [group.create_task(_emit(session, server, count, every_ms)) for server in servers]
        await asyncio.sleep(2)
        await asyncio.to_thread(redis.close)
        await asyncio.sleep(options.outage)
        await asyncio.to_thread(redis.enter_context, valkey(directory))
        await asyncio.gather(*emitting)
        slowest_s = time.monotonic() - began - count * every_ms / 1000
        await asyncio.sleep(max(0.0, *(heard.at + QUIET_S - time.monotonic() for heard in heards)))
        for task in listening:
            task.cancel()
    return judged(heards, [server.name for server in servers], count, max(0.0, slowest_s))


async def _emit(session: aiohttp.ClientSession, server: Peer, count: int, every_ms: float) -> None:
    query = {"count": str(count), "batch": "1", "every_ms": str(round(every_ms)), "who": server.name}
    async with session.get(f"http://127.0.0.1:{server.port}/emit", params=query) as answer:
        answer.raise_for_status()


def judged(heards: Sequence[Heard], names: Sequence[str], count: int, slowest_s: float) -> Outcome:
    """Compare what members heard with what was emitted."""
    lost = doubled = reordered = 0
    for heard in heards:
        for name in names:
            numbers = heard.numbers.get(name, [])
            lost += count - len(set(numbers))
            doubled += len(numbers) - len(set(numbers))
            reordered += sum(one > other for one, other in pairwise(numbers))
    return Outcome(count * len(heards) * len(names), lost, doubled, reordered, round(slowest_s, 2))


def measure_all(options: argparse.Namespace) -> int:
    outcomes: dict[str, Outcome] = {}
    for kind in [OURS, *([] if options.ours else [PYTHON]), *([NODE_JS] if options.js else [])]:
        with scratch("outage") as directory, ExitStack() as stack:
            redis = stack.enter_context(ExitStack())
            path, _ = redis.enter_context(valkey(directory))
            servers = []
            for number in range(SERVERS):
                port = free_port()
                argv = command(kind, port, path, options)
                servers.append(stack.enter_context(running(f"{kind} {number}", argv, port, directory)))
            outcomes[kind] = asyncio.run(suffer(servers, redis, directory, options))
    facts = machine()
    print(f"Redis killed for {options.outage} s, {options.rate} events a second from {SERVERS} servers")
    print("\n".join(heading(facts)))
    print()
    print(line("", *outcomes))
    for name in Outcome.__annotations__:
        print(line(name.replace("_", " "), *(str(getattr(each, name)) for each in outcomes.values())))
    write_json(options, facts, {kind: asdict(each) for kind, each in outcomes.items()})
    ours = outcomes[OURS]
    if ours.lost or ours.doubled or ours.reordered:
        sys.stderr.write(f"not every event arrived once and in order: {ours}\n")
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--outage", type=whole(1), default=10, help="seconds without Redis [10]")
    parser.add_argument("--rate", type=whole(1), default=200, help="events per second, all servers together [200]")
    parser.add_argument("--ours", action="store_true", help="measure Flotilla alone")
    parser.add_argument(
        "--js", type=Path, help="directory with node_modules (npm ci in benchmarks/js): measure Node.js"
    )
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    options = parser.parse_args()
    return run(options, lambda: measure_all(options))


if __name__ == "__main__":
    sys.exit(main())
