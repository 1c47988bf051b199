"""A drill: six real nodes behind links that can have every fault of a network, under two real workers.

What a link does not show here, a real one does in test_namespaces.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.support.clients import WEBSOCKET, Client, Crowd, python_crowd
from tests.support.drill import HEALTH, Drill, drill
from tests.support.faulty_link import (
    BREAKS_OFF,
    HALF_OPEN,
    HANGS,
    REFUSES,
    RESETS,
    UNREACHABLE,
    WELL,
    Condition,
)
from tests.support.nodes import NodeProcess
from tests.support.visitors import Visitors, visitors
from tests.support.waiting import eventually

ENOUGH = 15
"""So many visitors must have come while a node was known to be dead."""


async def _dies(scene: Drill, number: int, fault: Condition) -> float:
    """Let one link have a fault until all workers know: after `fall` failed probes of each at the latest."""
    link = scene.links[number]
    began = await link.becomes(fault)
    if fault is RESETS:
        link.reset()
    out = [event["at"] for event in await scene.became(number, "down", began)]
    assert sum(began <= probe.at <= min(out) for probe in link.probes) <= HEALTH["fall"] * scene.workers
    await scene.others_were_left_alone(number, since=began)
    return float(max(out))


async def _comes_back(scene: Drill, stream: Visitors, number: int, gone_at: float) -> None:
    """Heal a link: its node is back after `rise` probes, and one that was on its way; nobody was sent there before."""
    link = scene.links[number]
    await eventually(lambda: stream.all_over(gone_at), what="nobody waits for the dead node")
    await eventually(lambda: sum(made.began > gone_at for made in stream.visits) >= ENOUGH, what="visitors come")
    healed = await link.becomes(WELL)
    back_at = min(event["at"] for event in await scene.became(number, "ready", healed))
    # A probe that finds a node well makes two connections.
    assert sum(healed <= probe.at <= back_at for probe in link.probes) <= 2 * (HEALTH["rise"] + 1) * scene.workers
    late = {made.number for made in stream.visits if gone_at < made.began < healed}
    assert not late & {crossing.visitor for crossing in link.visitors if crossing.at < back_at}
    await scene.others_were_left_alone(number, since=gone_at)


async def _places(clients: Sequence[Client]) -> dict[Client, str]:
    return {client: await client.call("where") for client in clients}


async def _one_on_each(scene: Drill, crowd: Crowd) -> list[Client]:
    """Connect clients until every node has one."""
    clients: list[Client] = []
    names = {scene.name(number) for number in range(len(scene.links))}
    while set((await _places(clients)).values()) != names:
        assert len(clients) < 60, "some node gets nobody"
        clients.append(await crowd.connect(scene.stack.url, WEBSOCKET))
    return clients


async def _are_elsewhere(clients: Mapping[Client, int], name: str) -> bool:
    """Tell whether all these clients came back, on another node than this; each with how often it had connected."""
    if any(client.heard.connects == before for client, before in clients.items()):
        return False
    return name not in (await _places(list(clients))).values()


def test_whatever_happens_to_a_link_no_client_fails_and_nobody_is_sent_to_a_node_that_is_known_to_be_dead(
    tmp_path: Path, nodes: Sequence[NodeProcess]
) -> None:
    """One link after the other; established clients of other nodes do not notice, those of a silent one come back."""
    faults = [REFUSES, UNREACHABLE, RESETS, HANGS, HALF_OPEN, BREAKS_OFF]

    async def main() -> None:
        async with python_crowd() as crowd, drill(tmp_path, nodes) as scene:
            clients = await _one_on_each(scene, crowd)
            async with visitors(scene.port) as stream:
                for number, fault in enumerate(faults):
                    name, places = scene.name(number), await _places(clients)
                    before = {client: client.heard.connects for client in clients}
                    gone_at = await _dies(scene, number, fault)
                    if not fault.to_balancer or fault is RESETS:
                        there = {client: before[client] for client in clients if places[client] == name}
                        await eventually(partial(_are_elsewhere, there, name), what=f"clients of {name} are elsewhere")
                    await _comes_back(scene, stream, number, gone_at)
                    for client in (client for client in clients if places[client] != name):
                        assert client.heard.connects == before[client]
                        assert await client.call("echo", 1) == 1
            assert stream.failed == []

    asyncio.run(main())
