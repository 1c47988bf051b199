"""Users on several nodes while everything goes wrong: seeded faults, and a model that all must agree with."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import redis.asyncio as redis

from cluster.redis_link import connection
from node.directory import RedisDirectory
from node.presence import Listener
from node.roster import Change
from tests.support.seats import KEYS, Chair, sharing
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

STEPS = 120
USERS = [f"user-{number}" for number in range(12)]


class Course:
    """Nodes that come, go and die; their clients; and what should be true in the end."""

    def __init__(self, seed: int, valkey: Valkey) -> None:
        self.rng, self.valkey = random.Random(seed), valkey
        self.nodes: dict[str, tuple[Chair, AsyncExitStack]] = {}
        self.devices: dict[tuple[str, str], str] = {}
        self.loss = 0.0
        self.incarnation = 0
        self.told: dict[int, set[str]] = {}
        self.complaints: list[str] = []

    async def begin_node(self) -> None:
        free = [name for name in ("n1", "n2", "n3", "n4") if name not in self.nodes]
        if not free:
            return
        name = self.rng.choice(free)
        self.incarnation += 1
        stack = AsyncExitStack()
        chair = await stack.enter_async_context(
            sharing(self.valkey.url, name, 3000 + int(name[1:]), f"i{self.incarnation}", grace_s=0.2)
        )
        self.nodes[name] = chair, stack
        chair.presence.listen(self.listener(self.incarnation))
        self.lose_some(chair)

    def listener(self, number: int) -> Listener:
        online: set[str] = set()
        self.told[number] = online

        async def hear(change: Change) -> None:
            for user in change.joined:
                if user.user_id in online:
                    self.complaints.append(f"{number}: {user.user_id} joined twice")
                online.add(user.user_id)
            for user in change.left:
                if user.user_id not in online:
                    self.complaints.append(f"{number}: {user.user_id} left without having joined")
                online.discard(user.user_id)

        return hear

    def lose_some(self, chair: Chair) -> None:
        directory = chair.presence._directory
        assert isinstance(directory, RedisDirectory)
        pass_on = directory._pass_on

        def pass_most_on(*arguments: Any) -> None:
            if self.rng.random() >= self.loss:
                pass_on(*arguments)

        directory._pass_on = pass_most_on  # type: ignore[method-assign,assignment]

    async def end_node(self, *, killed: bool) -> None:
        if len(self.nodes) < 2:
            return
        name = self.rng.choice(sorted(self.nodes))
        chair, stack = self.nodes.pop(name)
        if not killed:
            await chair.presence.withdraw()
        await stack.aclose()
        async with connection(self.valkey.url) as link:
            await chair.die_by(link)
        self.devices = {key: user for key, user in self.devices.items() if key[0] != name}

    async def restart_redis(self) -> None:
        self.valkey.kill()
        self.join()
        self.valkey.start()
        for chair, _ in self.nodes.values():
            await eventually(chair.announce)

    def join(self) -> None:
        name = self.rng.choice(sorted(self.nodes))
        sid, user = f"s{self.rng.randrange(20)}", self.rng.choice(USERS)
        self.nodes[name][0].presence.join(sid, user, self.rng.choice([None, {"n": self.rng.randrange(3)}]))
        self.devices[name, sid] = user

    def leave(self) -> None:
        if self.devices:
            name, sid = self.rng.choice(sorted(self.devices))
            self.nodes[name][0].presence.leave(sid)
            del self.devices[name, sid]

    async def step(self) -> None:
        match self.rng.choices(range(7), weights=[40, 30, 4, 2, 3, 1, 20])[0]:
            case 0:
                self.join()
            case 1:
                self.leave()
            case 2:
                await self.begin_node()
            case 3:
                await self.end_node(killed=False)
            case 4:
                await self.end_node(killed=True)
            case 5:
                await self.restart_redis()
            case 6:
                self.loss = self.rng.choice([0.0, 0.0, 0.3, 0.9])
                await asyncio.sleep(self.rng.random() * 0.05)

    def agrees(self, chair: Chair) -> bool:
        seen = {
            (device.node, device.sid): user
            for user in chair.presence.users()
            for device in chair.presence.sessions(user)
        }
        return seen == self.devices

    def has_told(self, number: int) -> bool:
        return self.told[number] == set(self.devices.values())


@pytest.mark.parametrize("seed", range(6))
def test_all_nodes_agree_in_the_end(seed: int, valkey: Valkey) -> None:
    """Whatever came, went, died, was lost or emptied; and each told every user's coming and going in turn."""

    async def main() -> None:
        course = Course(seed, valkey)
        try:
            await course.begin_node()
            await course.begin_node()
            for _ in range(STEPS):
                await course.step()
            course.loss = 0.0
            for chair, _ in course.nodes.values():
                await eventually(partial(course.agrees, chair), what=f"seed {seed}")
                assert chair.record is not None
                number = int(chair.record.incarnation[1:])
                await eventually(partial(course.has_told, number), what=f"told, seed {seed}")
            assert course.complaints == []
            async with connection(valkey.url) as link:
                await eventually(lambda: _only(link, course), what="nothing of the dead is left")
        finally:
            for _, stack in course.nodes.values():
                await stack.aclose()

    asyncio.run(main())


async def _only(link: redis.Redis, course: Course) -> bool:
    fields = await link.hkeys(KEYS.users_online)
    return sorted(str(field, "ascii").split()[0] for field in fields if isinstance(field, bytes)) == sorted(
        course.nodes
    )
