"""A self-checking stress test of rooms over the bus: random deeds and faults, and a model that knows what must follow.

Everything that happens is drawn from a seed, so that a failure can be played again (its timing cannot).  It goes in
rounds: some twenty steps, perhaps with a fault among them, then quiet, and everything is compared:

* each client got each message once at most;
* it got every message for which it qualified from the emit until the quiet, and none for which it never did;
* what one node sent it came in the order in which that was sent;
* clients are in the rooms that the model has them in, and Redis knows exactly the channels that have members.

A node that cannot reach Redis misses what others send meanwhile (Redis keeps nothing for a subscriber that is away),
and one that is killed takes along what had not left it; all else must arrive, whatever happens to Redis.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster.redis_link import connection
from node.bus import BusLimits
from tests.support.between import Between, between
from tests.support.rooms_nodes import Ear, RoomsNode
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

NODES = 4
ROOMS = ("red", "green", "blue", 7, ("a", 1))
STEPS = 20
MOST_CLIENTS = 16
LIMITS = BusLimits(canary_s=1.0, lease_s=3.0)


@dataclass
class Someone:
    """A client in the model."""

    sid: str
    node: int
    ear: Ear
    rooms: set[Any] = field(default_factory=set)


@dataclass
class Said:
    """A message, and who qualified for it when."""

    number: int
    node: int
    fits: Callable[[Someone], bool]
    always: set[str]
    ever: set[str]
    may_be_lost: bool = False
    missed_by: set[int] = field(default_factory=set)
    """Nodes that could not hear it for certain."""


class Stress:
    """Runs rounds against `valkey`; `seed` decides everything."""

    def __init__(self, valkey: Valkey, seed: int) -> None:
        self._valkey = valkey
        self._random = random.Random(seed)
        self._seed = seed
        self._proxies: list[Between] = []
        self._nodes: list[RoomsNode] = []
        self._clients: dict[str, Someone] = {}
        self._said: list[Said] = []
        self._number = 0
        self._unreachable: set[int] = set()
        self._is_calm = True
        self.rounds = self.messages = self.deliveries = 0
        self.faults: dict[str, int] = {}
        self._story: list[str] = []
        """What happened in this round: for whoever reads a failure."""

    async def run(self, seconds: float) -> None:
        """Play rounds for so long.  Raises AssertionError, with the seed, when something is not as it must be."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        async with AsyncExitStack() as stack:
            for number in range(NODES):
                self._proxies.append(await stack.enter_async_context(between(self._valkey.port)))
                self._nodes.append(self._new_node(number))
            try:
                for node in self._nodes:
                    node.start()
                await self._all_up()
                while loop.time() < until:
                    await self._round()
            except BaseException as exc:
                exc.add_note(f"seed {self._seed}: {self.summary}\n" + "\n".join(self._story))
                raise
            finally:
                for node in self._nodes:
                    await node.stop()

    @property
    def summary(self) -> str:
        """What was done so far."""
        return f"{self.rounds} rounds, {self.messages} messages, {self.deliveries} deliveries, faults {self.faults}"

    # Deeds

    async def _round(self) -> None:
        self._story.clear()
        fault = self._random.choice(FAULTS)
        begin, end = sorted(self._random.sample(range(STEPS), 2))
        healing: Coroutine[Any, Any, None] | None = None
        try:
            for step in range(STEPS):
                if fault is not None and step == begin:
                    self.faults[fault.__name__] = self.faults.get(fault.__name__, 0) + 1
                    self._is_calm = False
                    healing = await fault(self)
                    self._story.append(fault.__name__)
                elif healing is not None and step == end:
                    await healing
                    healing = None
                    self._story.append("healed")
                await self._step()
                self._look()
                if self._random.random() < 0.3:
                    await asyncio.sleep(self._random.uniform(0, 0.05))
        finally:
            if healing is not None:
                await healing
        await self._quiet()
        self._is_calm = True
        await self._check()
        self.rounds += 1

    async def _step(self) -> None:
        chance = self._random.random()
        someone = self._random.choice([*self._clients.values()]) if self._clients else None
        if someone is None or (chance < 0.1 and len(self._clients) < MOST_CLIENTS):
            await self._come()
        elif chance < 0.15:
            self._go(someone)
        elif chance < 0.3:
            await self._enter(someone)
        elif chance < 0.4 and someone.rooms:
            await self._leave(someone)
        else:
            for _ in range(self._random.randint(1, 5)):
                await self._say()

    async def _come(self) -> None:
        node = self._random.randrange(NODES)
        sid, ear = await self._nodes[node].client()
        self._clients[sid] = Someone(sid, node, ear)
        self._story.append(f"{sid} came")

    def _go(self, someone: Someone) -> None:
        self._nodes[someone.node].lose(someone.sid)
        del self._clients[someone.sid]

    async def _enter(self, someone: Someone) -> None:
        room = self._random.choice(ROOMS)
        self._story.append(f"{someone.sid} enters {room}")
        await self._by_whom(someone).sio.enter_room(someone.sid, room)
        someone.rooms.add(room)

    async def _leave(self, someone: Someone) -> None:
        room = self._random.choice(sorted(someone.rooms, key=str))
        self._story.append(f"{someone.sid} leaves {room}")
        await self._by_whom(someone).sio.leave_room(someone.sid, room)
        someone.rooms.discard(room)

    def _by_whom(self, someone: Someone) -> RoomsNode:
        """Its own node, or any, while each can reach each: then it is done when the call returns."""
        choice = self._random.randrange(NODES)
        calm = self._is_calm and all(node.post.bus.health == 0 for node in self._nodes)
        return self._nodes[choice if calm else someone.node]

    async def _say(self) -> None:
        number, node = self._number, self._random.randrange(NODES)
        self._number += 1
        options, fits = self._whom()
        # Noted before anybody can have it.
        fitting = {sid for sid, someone in self._clients.items() if fits(someone)}
        said = Said(number, node, fits, set(fitting), fitting)
        said.missed_by |= self._unreachable - {node}
        self._said.append(said)
        self._story.append(f"n{node} said {number} {options}")
        await self._nodes[node].sio.emit("said", (number, node), **options)
        self.messages += 1

    def _whom(self) -> tuple[dict[str, Any], Callable[[Someone], bool]]:
        """Return options of an emit, and what they mean."""
        kind = self._random.randrange(6)
        room, other = self._random.sample(ROOMS, 2)
        someone = self._random.choice([*self._clients])
        if kind == 0:
            return {}, lambda client: True
        if kind == 1:
            return {"to": [room]}, lambda client: room in client.rooms
        if kind == 2:
            return {"to": [room, other]}, lambda client: bool({room, other} & client.rooms)
        if kind == 3:
            return {"to": someone}, lambda client: client.sid == someone
        if kind == 4:
            return {"to": [room], "skip_sid": someone}, lambda client: room in client.rooms and client.sid != someone
        return {"except_rooms": [room]}, lambda client: room not in client.rooms

    def _look(self) -> None:
        """Note who qualifies for what now."""
        for said in self._said:
            fitting = {sid for sid, someone in self._clients.items() if said.fits(someone)}
            said.always &= fitting
            said.ever |= fitting

    # Faults: each returns what ends it

    async def _redis_dies(self) -> Coroutine[Any, Any, None]:
        self._valkey.kill()
        return asyncio.to_thread(self._valkey.start)

    async def _redis_restarts(self) -> Coroutine[Any, Any, None]:
        self._valkey.kill()
        await asyncio.to_thread(self._valkey.start)
        return asyncio.sleep(0)

    async def _node_is_cut_off(self) -> Coroutine[Any, Any, None]:
        """Nothing passes between a node and Redis, and nobody is told."""
        number = self._random.randrange(NODES)
        self._story.append(f"n{number}:")
        self._isolate(number)
        self._proxies[number].partitioned()

        async def heal() -> None:
            if self._random.random() < 0.5:
                self._proxies[number].cut()
            self._proxies[number].healed()
            await self._reachable_again(number)

        return heal()

    async def _node_is_reset(self) -> Coroutine[Any, Any, None]:
        """A node loses its connections, and gets no new ones for a while."""
        number = self._random.randrange(NODES)
        self._story.append(f"n{number}:")
        self._isolate(number)
        self._proxies[number].cut(refuse=True)

        async def heal() -> None:
            self._proxies[number].healed()
            await self._reachable_again(number)

        return heal()

    async def _node_is_killed(self) -> Coroutine[Any, Any, None]:
        """It takes its clients along, and what had not left it."""
        number = self._random.randrange(NODES)
        await self._nodes[number].stop()
        for someone in [each for each in self._clients.values() if each.node == number]:
            del self._clients[someone.sid]
        for said in self._said:
            said.may_be_lost |= said.node == number
        self._nodes[number] = self._new_node(number)
        self._nodes[number].start()
        self._look()
        # A node takes no clients before it hears the others (node/company.py).
        await self._up(number)
        return asyncio.sleep(0)

    def _isolate(self, number: int) -> None:
        self._unreachable.add(number)
        # What was on its way may not have arrived.
        for said in self._said:
            if said.node != number:
                said.missed_by.add(number)

    async def _reachable_again(self, number: int) -> None:
        """It hears again only when it has noticed, and subscribed anew: until then it may miss more."""
        await self._up(number)
        self._unreachable.discard(number)

    # Checks

    def _new_node(self, number: int) -> RoomsNode:
        node = RoomsNode(f"redis://127.0.0.1:{self._proxies[number].port}/0", f"n{number}", LIMITS)
        node.peers = [f"n{each}" for each in range(NODES)]
        return node

    async def _up(self, number: int) -> None:
        bus = self._nodes[number].post.bus
        connects = bus.figures().connects
        # A connection that was cut off half-open is given up after some seconds, or goes on as if nothing had been.
        await asyncio.sleep(0.05)
        assert await bus.up(20), f"n{number} is not up: {bus.reason} (after {connects} connections)"

    async def _all_up(self) -> None:
        for number in range(NODES):
            await self._up(number)

    async def _quiet(self) -> None:
        """Wait until everything has arrived: what each node says last comes last."""
        await self._all_up()
        listeners = []
        for node in self._nodes:
            listeners.append((node, *await node.client()))
        for node in self._nodes:
            for _ in range(2):
                await node.sio.emit("quiet", node.name)
        everybody = {node.name for node in self._nodes}
        for node, sid, ear in listeners:
            await eventually(partial(_has_heard, ear, everybody), what="quiet")
            node.lose(sid)

    async def _check(self) -> None:
        for someone in self._clients.values():
            got = [(event[1], event[2]) for event, *_ in someone.ear.heard if event[0] == "said"]
            someone.ear.heard.clear()
            numbers = [number for number, _ in got]
            assert len(set(numbers)) == len(numbers), f"{someone} got something twice: {numbers}"
            self._check_counts(someone, set(numbers))
            for node in range(NODES):
                sent = [number for number, origin in got if origin == node]
                assert sent == sorted(sent), f"{someone} got what n{node} sent in another order: {sent}"
            found = set(self._nodes[someone.node].fanout.get_rooms(someone.sid, "/")) - {someone.sid}
            assert found == someone.rooms, f"{someone} is in {found}"
            self.deliveries += len(got)
        self._said.clear()
        await eventually(self._channels_agree)

    def _check_counts(self, someone: Someone, got: set[int]) -> None:
        for said in self._said:
            if said.number in got:
                assert someone.sid in said.ever, f"{someone} got {said}, which was never for it"
            elif someone.sid in said.always:
                excused = someone.node in said.missed_by or (said.may_be_lost and someone.node != said.node)
                assert excused, f"{someone} did not get {said}"

    async def _channels_agree(self) -> bool:
        """Redis knows a channel for each room that has members, and no other."""
        post = self._nodes[0].post
        rooms = {room for someone in self._clients.values() for room in someone.rooms}
        expected = {post.channels.room("/", room).name for room in rooms}
        expected |= {post.channels.everybody("/").name} if self._clients else set()
        expected.add(post.channels.servers.name)
        expected |= {
            channel.name
            for node in self._nodes
            for channel in (post.channels.node(node.name), post.channels.ear(node.name, 0))
        }
        async with connection(self._valkey.url) as link:
            found = set(await link.pubsub_channels("{test}:*"))
        assert found == expected, f"too many: {found - expected}; too few: {expected - found}"
        return True


def _has_heard(ear: Ear, everybody: set[str]) -> bool:
    return everybody <= set(ear.firsts)


FAULTS: tuple[Any, ...] = (
    None,
    None,
    Stress._redis_dies,
    Stress._redis_restarts,
    Stress._node_is_cut_off,
    Stress._node_is_reset,
    Stress._node_is_killed,
)
