"""What does a message cost when there are more nodes?

Nodes as far as rooms and the bus go (node/fanout.py, node/post.py, node/bus.py), all in this one process, on a real
Valkey; their clients only count what they get.  Clients sit on nodes at random, and so do the members of rooms of
several sizes.  Measured for each size of room and each number of nodes: how many nodes get a message (of those that
have members, and of those that have none), CPU time of all nodes together and of Redis, memory per subscription.

The cost must follow the nodes that have members, whatever the number of all nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bus import valkey
from benchmarks.command_line import run, scratch, whole, write_json
from benchmarks.measure import BenchmarkError, cpu_s, machine, new_event_loop
from benchmarks.table import heading, line
from cluster.redis_link import connection
from cluster.tag import new_sid, slot_of, tag_of
from node import Server
from node.bus import BusLimits, channels_of
from node.fanout import Fanout
from node.message import Message
from node.peer import Peer
from node.post import Post
from node.rooms import Client

SECRET = b"secret"
TEXT = "x" * 64
PATIENCE_S = 60.0
TICK_S = 0.005
EVERYBODY = 0


@dataclass(frozen=True)
class Kind:
    """Rooms with so many members (EVERYBODY: all clients), and their share of all messages, in per cent."""

    name: str
    members: int
    share: int


MIX = (Kind("two", 2, 60), Kind("eight", 8, 30), Kind("fifty", 50, 9), Kind("everybody", EVERYBODY, 1))


@dataclass(frozen=True)
class Cost:
    """Of one message to a room of that kind; CPU time in µs."""

    kind: str
    with_members: float
    """Other nodes that have a member."""
    received: float
    """Other nodes that got it."""
    nodes_us: float
    redis_us: float
    bytes: float
    lost: int


class Counting:
    """Stands in for the session of a client."""

    heard = 0
    waiting_bytes = 0

    def __init__(self) -> None:
        self.sid = ""
        self.client = Peer(self)  # type: ignore[arg-type]

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        Counting.heard += 1
        return True


class SimNode:
    """A node without sockets for clients."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.post = Post(url, channels_of("scale", url), name, secrets.token_hex(8), BusLimits())
        self.fanout = Fanout(self.post, lambda sid: slot_of(sid, SECRET), self)
        self.sio = Server(client_manager=self.fanout)
        self.tag = tag_of(name, SECRET)
        self.clients = 0

    def expected(self) -> tuple[str, ...]:
        return ()

    async def refresh(self) -> bool:
        return True

    def seat(self) -> Client:
        """Connect a client."""
        self.clients += 1
        return self.fanout.directory.add(Counting(), new_sid(self.tag), "/")


class Cluster:
    """All nodes, and who is in which room."""

    def __init__(self, nodes: Sequence[SimNode], options: argparse.Namespace) -> None:
        self._nodes = nodes
        self._random = random.Random(options.seed)
        seats = [(node, node.seat()) for node in nodes for _ in range(options.clients)]
        self.rooms: dict[str, list[list[SimNode]]] = {}
        """For each kind, the nodes of each room's members."""
        for kind in MIX:
            self.rooms[kind.name] = []
            for number in range(options.rooms if kind.members else 1):
                members = self._random.sample(seats, kind.members) if kind.members else seats
                for node, client in members if kind.members else ():
                    node.fanout.directory.enter(client, f"{kind.name}-{number}")
                self.rooms[kind.name].append([node for node, _ in members])

    async def settled(self) -> None:
        for node in self._nodes:
            if not await node.post.bus.settled():
                raise BenchmarkError("Redis went away")

    @property
    def subscriptions(self) -> int:
        return sum(node.post.bus.figures().subscriptions for node in self._nodes)

    async def say(self, kind: Kind, count: int, rate: int) -> tuple[int, int]:
        """Emit so many messages, each from the node of a member; return how many deliveries and nodes that makes."""
        deliveries = elsewhere = 0
        loop = asyncio.get_running_loop()
        due = loop.time()
        numbers = iter(range(count))
        while batch := list(islice(numbers, max(1, round(rate * TICK_S)))):
            for _ in batch:
                number = self._random.randrange(len(self.rooms[kind.name]))
                members = self.rooms[kind.name][number]
                origin = self._random.choice(members)
                room = f"{kind.name}-{number}" if kind.members else None
                await origin.sio.emit("event", {"text": TEXT, "n": number}, room=room)
                deliveries += len(members)
                elsewhere += len({node.name for node in members} - {origin.name})
            due += TICK_S
            await asyncio.sleep(max(0.0, due - loop.time()))
        return deliveries, elsewhere

    def taken(self) -> int:
        """Return how many messages of others all nodes have taken so far."""
        return sum(node.post.lag.count for node in self._nodes)

    def arrived(self) -> tuple[int, int]:
        """Return how many messages have come to all nodes, their own and canaries included, and how many bytes."""
        figures = [node.post.bus.figures() for node in self._nodes]
        return sum(each.received for each in figures), sum(each.received_bytes for each in figures)


async def cost(cluster: Cluster, kind: Kind, redis_pid: int, options: argparse.Namespace) -> Cost:
    """Measure one kind of room; what all of it takes at rest does not count."""
    count = options.messages // 10 if kind.members == EVERYBODY else options.messages
    await cluster.say(kind, min(count, 50), options.rate)
    await asyncio.sleep(0.2)
    rest_began, rest = time.monotonic(), _cpu(redis_pid)
    await asyncio.sleep(1)
    rest_s = time.monotonic() - rest_began
    at_rest = [(after - before) / rest_s for after, before in zip(_cpu(redis_pid), rest, strict=True)]
    Counting.heard = 0
    taken, arrived = cluster.taken(), cluster.arrived()
    began, before = time.monotonic(), _cpu(redis_pid)
    deliveries, elsewhere = await cluster.say(kind, count, options.rate)
    await _heard(deliveries)
    took, after = time.monotonic() - began, _cpu(redis_pid)
    messages, bytes_ = (end - start for end, start in zip(cluster.arrived(), arrived, strict=True))
    used = [
        1e6 * (end - start - still * took) / count for end, start, still in zip(after, before, at_rest, strict=True)
    ]
    return Cost(
        kind.name,
        with_members=elsewhere / count,
        received=(cluster.taken() - taken) / count,
        nodes_us=used[0],
        redis_us=used[1],
        bytes=bytes_ / messages,
        lost=deliveries - Counting.heard,
    )


async def _heard(deliveries: int) -> None:
    until = time.monotonic() + PATIENCE_S
    quiet, last = 0, -1
    while Counting.heard < deliveries and time.monotonic() < until and quiet < 100:
        quiet = quiet + 1 if last == Counting.heard else 0
        last = Counting.heard
        await asyncio.sleep(0.02)


def _cpu(redis_pid: int) -> tuple[float, float]:
    return time.process_time(), cpu_s([redis_pid])


async def measure(count: int, socket: Path, redis_pid: int, options: argparse.Namespace) -> tuple[list[Cost], float]:
    """Return the cost for each kind of room with so many nodes, and Redis's bytes per subscription."""
    url = f"unix://{socket}"
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(connection(url))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        nodes = [SimNode(url, f"n{number}") for number in range(count)]
        for node in nodes:
            stack.callback(group.create_task(node.fanout.run()).cancel)
        for node in nodes:
            if not await node.post.bus.up(PATIENCE_S):
                raise BenchmarkError(f"no bus: {node.post.bus.reason}")
        before = int((await link.info("memory"))["used_memory"])
        base = sum(node.post.bus.figures().subscriptions for node in nodes)
        cluster = Cluster(nodes, options)
        await cluster.settled()
        grown = int((await link.info("memory"))["used_memory"]) - before
        per_subscription = grown / (cluster.subscriptions - base)
        return [await cost(cluster, kind, redis_pid, options) for kind in MIX], per_subscription


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return a and b of y = a + b·x, as the least squares have it."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return mean_y, 0.0
    b = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return mean_y - b * mean_x, b


def mixed(costs: Sequence[Cost], attribute: str) -> float:
    """Return the mean of a figure over the whole mix."""
    shares = {kind.name: kind.share for kind in MIX}
    return sum(shares[each.kind] * float(getattr(each, attribute)) for each in costs) / sum(shares.values())


def measure_all(options: argparse.Namespace) -> int:
    results: dict[int, list[Cost]] = {}
    memory: dict[int, float] = {}
    for count in options.nodes:
        with (
            scratch("scale") as directory,
            valkey(directory) as (socket, redis_pid),
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            results[count], memory[count] = runner.run(measure(count, socket, redis_pid, options))
    small = [each for found in results.values() for each in found if each.kind != "everybody"]
    fits = {
        "nodes_us": slope([(each.received, each.nodes_us) for each in small]),
        "redis_us": slope([(each.received, each.redis_us) for each in small]),
    }
    facts = machine()
    show(results, memory, fits, facts, options)
    measured = {str(count): [asdict(each) for each in found] for count, found in results.items()}
    write_json(options, facts, {"costs": measured, "bytes_per_subscription": memory, "fits": fits})
    return judged(results)


def judged(results: dict[int, list[Cost]]) -> int:
    """Return 1 if a message was lost, or came to a node that has no member."""
    wrong = [
        f"{count} nodes, {each.kind}: {each.lost} lost, {each.received:.3f} nodes for {each.with_members:.3f}"
        for count, costs in results.items()
        for each in costs
        if each.lost or abs(each.received - each.with_members) > 1e-9
    ]
    if wrong:
        sys.stderr.write("\n".join(wrong) + "\n")
    return 1 if wrong else 0


ROWS = (
    ("other nodes with a member", "with_members", 2),
    ("other nodes that got it", "received", 2),
    ("CPU µs, all nodes", "nodes_us", 1),
    ("CPU µs, Redis", "redis_us", 1),
    ("bytes on the bus, each", "bytes", 0),
)


def show(
    results: dict[int, list[Cost]],
    memory: dict[int, float],
    fits: dict[str, tuple[float, float]],
    facts: dict[str, str],
    options: argparse.Namespace,
) -> None:
    print(f"One message to a room, {options.rate} a second, {options.clients} clients a node, all nodes in one process")
    print("\n".join(heading(facts)))
    for count, costs in results.items():
        print(f"\n{count} nodes: members of the room ({memory[count]:.0f} bytes in Redis for each subscription)")
        print(line("", *(each.kind for each in costs), "the mix"))
        for name, attribute, digits in ROWS:
            cells = [f"{getattr(each, attribute):.{digits}f}" for each in costs]
            print(line(name, *cells, f"{mixed(costs, attribute):.{digits}f}"))
    print("\nWithout those to everybody, a message takes:")
    for name, (fixed, each) in (("all nodes", fits["nodes_us"]), ("Redis", fits["redis_us"])):
        print(f"  {name:<10}{fixed:6.1f} µs and {each:5.1f} µs for each other node with a member")


def nodes_list(text: str) -> list[int]:
    return [whole(2)(each) for each in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=nodes_list, default=[3, 10, 30], help="numbers of nodes [3,10,30]")
    parser.add_argument("--clients", type=whole(1), default=100, help="of each node [100]")
    parser.add_argument("--rooms", type=whole(1), default=200, help="of each kind [200]")
    parser.add_argument("--messages", type=whole(100), default=3000, help="to rooms of each kind [3000]")
    parser.add_argument("--rate", type=whole(1), default=1000, help="messages per second, of all nodes [1000]")
    parser.add_argument("--seed", type=whole(0), default=1, help="who is where [1]")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    options = parser.parse_args()
    return run(options, lambda: measure_all(options))


if __name__ == "__main__":
    sys.exit(main())
