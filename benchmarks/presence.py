"""What do many users cost, and do they slow the loop?  Presence alone, without clients: three processes, one Redis.

    python benchmarks/presence.py [--users 100000] [--nodes 3] [--per-second 10000]

Each node's users join at the given rate (0: all at once) and the event loop's lag is measured meanwhile; then one node
joins anew and reads all, one is killed, and the others forget its users.  Memory is the growth of the resident set
while users join, which every node pays for all users.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import connection
from cluster.registry import Registry
from node.directory import RedisDirectory
from node.presence import Presence
from node.roster import Seat
from tests.support.valkey import running_valkey

KEYS = Keys("bench")
TICK_S = 0.005


@dataclass
class Lag:
    """How late the loop runs what is due, in milliseconds."""

    late_ms: list[float] = field(default_factory=list)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.late_ms.append(1000 * max(0.0, loop.time() - due))

    def taken(self) -> dict[str, float]:
        late, self.late_ms = sorted(self.late_ms) or [0.0], []
        return {
            "p50_ms": round(statistics.median(late), 2),
            "p99_ms": round(late[int(0.99 * (len(late) - 1))], 2),
            "max_ms": round(late[-1], 1),
        }


async def _until(question: Callable[[], bool], within_s: float = 120) -> None:
    async with asyncio.timeout(within_s):
        while not question():  # noqa: ASYNC110  (it is Presence that is asked, and it knows of no one who waits)
            await asyncio.sleep(0.01)


class Node:
    """One process; told what to do by lines on standard input, answers with one line of JSON each."""

    def __init__(self, url: str, number: int, presence: Presence, lag: Lag) -> None:
        self.url, self.number, self.presence, self.lag = url, number, presence, lag
        self.heard = [0, 0]
        self.process = psutil.Process()

    async def hear(self, change: Any) -> None:
        self.heard[0] += len(change.joined)
        self.heard[1] += len(change.left)

    def measured(self, began: float, cpu: float) -> dict[str, Any]:
        return {
            "users": len(self.presence.users()),
            "joined": self.heard[0],
            "left": self.heard[1],
            "seconds": round(time.monotonic() - began, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "rss": self.process.memory_info().rss,
            **self.lag.taken(),
        }

    async def join(self, count: int, per_second: int) -> None:
        began = time.monotonic()
        for number in range(count):
            if per_second and number % 50 == 0:
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            elif number % 500 == 0:
                await asyncio.sleep(0)
            self.presence.join(f"n{self.number}-aaaaaa.{number:020d}", f"user-{self.number}-{number}")

    async def serve(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            order = json.loads(line)
            gc.collect()
            await asyncio.sleep(10 * TICK_S)
            self.lag.taken()
            began, cpu = time.monotonic(), time.process_time()
            if order["do"] == "join":
                await self.join(order["count"], order["per_second"])
            await _until(lambda: len(self.presence.users()) == order["expect"])  # noqa: B023
            known_s = time.monotonic() - began
            await _until(lambda: self.heard[0] - self.heard[1] == order["expect"])  # noqa: B023
            print(json.dumps({**self.measured(began, cpu), "known_s": round(known_s, 2)}), flush=True)


async def _node(url: str, number: int) -> None:
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(connection(url))
        seat = Seat(f"n{number}", f"i{number}", 3000 + number)
        registry, lag = Registry(link, KEYS), Lag()
        presence = Presence(RedisDirectory(link, registry, KEYS, seat), seat, refresh_s=1.0, trust_s=5.0, grace_s=0.0)
        node = Node(url, number, presence, lag)
        presence.listen(node.hear)
        record = NodeRecord(name=seat.node, host="127.0.0.1", port=seat.port, incarnation=seat.incarnation)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with asyncio.TaskGroup() as group:
            await registry.announce(record, 3600, changed=True)
            tasks = [group.create_task(job) for job in (presence.run(), lag.run())]
            await node.serve(reader)
            for task in tasks:
                task.cancel()


async def _start(url: str, number: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--node",
        str(number),
        "--url",
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _ask(process: asyncio.subprocess.Process, **order: Any) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    await process.stdin.drain()
    answer: dict[str, Any] = json.loads(await process.stdout.readline())
    return answer


def _show(what: str, answers: list[dict[str, Any]]) -> None:
    print(f"\n{what}")
    for number, each in enumerate(answers):
        lag = f"lag p50 {each['p50_ms']} p99 {each['p99_ms']} max {each['max_ms']} ms"
        times = f"known in {each['known_s']} s, told in {each['seconds']} s; {each['cpu_s']} s CPU"
        print(f"  node {number}: {each['users']} users {times}, {lag}")


async def _measure(url: str, users: int, nodes: int, per_second: int) -> None:
    share = users // nodes
    total = share * nodes
    processes = [await _start(url, number) for number in range(nodes)]
    try:
        idle = [await _ask(each, do="wait", expect=0) for each in processes]
        order = {"do": "join", "count": share, "per_second": per_second // nodes, "expect": total}
        joined = await asyncio.gather(*(_ask(each, **order) for each in processes))
        _show(f"{total} users join, {per_second or 'as many as can be'} a second", joined)
        grown = statistics.mean(after["rss"] - before["rss"] for before, after in zip(idle, joined, strict=True))
        print(f"  memory: {grown / total:.0f} bytes for each user, on every node")
        late = await _start(url, nodes)
        processes.append(late)
        _show("a node that comes late reads all", [await _ask(late, do="wait", expect=total)])
        before = time.monotonic()
        async with connection(url) as link:
            processes[0].send_signal(signal.SIGKILL)
            assert await Registry(link, KEYS).withdraw("n0", "i0")
        left = await asyncio.gather(*(_ask(each, do="wait", expect=total - share) for each in processes[1:]))
        _show(f"node 0 is killed: {share} users are gone, and that is told, in {time.monotonic() - before:.2f} s", left)
    finally:
        for each in processes:
            if each.returncode is None:
                each.kill()
            await each.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--per-second", type=int, default=10_000, help="over all nodes; 0: as many as can be")
    parser.add_argument("--node", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node is not None:
        asyncio.run(_node(options.url, options.node))
        return
    print(f"{options.users} users, {options.nodes} nodes, {os.cpu_count()} cores")
    with running_valkey() as valkey:
        asyncio.run(_measure(valkey.url, options.users, options.nodes, options.per_second))


if __name__ == "__main__":
    main()
