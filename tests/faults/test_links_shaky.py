"""A drill: six real nodes behind links that work and do not: slow, lossy, flapping, failing clients, all at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lb.conduct import FREE_FALLS
from tests.support.drill import HEALTH, drill
from tests.support.faulty_link import HANGS, PROBE, REFUSES, TRICKLES, WELL, Condition, Entrance
from tests.support.nodes import NodeProcess
from tests.support.visitors import visit, visitors
from tests.support.waiting import eventually


def test_a_link_that_flaps_is_left_alone_for_longer_each_time(tmp_path: Path, nodes: Sequence[NodeProcess]) -> None:
    """Two falls cost the node nothing; from the third on it stays out though it answers, and the events say so."""
    eject_s = 0.5

    async def main() -> None:
        async with drill(tmp_path, nodes, health={"eject_s": eject_s}) as scene, visitors(scene.port) as stream:
            link, out_s = scene.links[0], []
            for fall in range(1, FREE_FALLS + 4):
                began = await link.becomes(REFUSES)
                downs = {event["worker"]: event for event in await scene.became(0, "down", began)}
                healed = await link.becomes(WELL)
                ups = {event["worker"]: event for event in await scene.became(0, "ready", healed)}
                out_s.append([ups[worker]["at"] - downs[worker]["at"] for worker in downs])
                for event in downs.values():
                    assert (f"fell {fall} times lately" in event["reason"]) is (fall > FREE_FALLS)
            for times, least in zip(out_s[FREE_FALLS:], (eject_s, 2 * eject_s, 4 * eject_s), strict=True):
                assert min(times) >= least
            assert stream.failed == []
            await scene.others_were_left_alone(0, since=began)

    asyncio.run(main())


@pytest.mark.parametrize("slow_handshake_s", [5.0, 0.7])
def test_a_slow_node_gets_clients_unless_the_rules_say_otherwise(
    tmp_path: Path, nodes: Sequence[NodeProcess], slow_handshake_s: float
) -> None:
    """So long a way is a nuisance; over `slow_handshake_s` it is a failure, and ejects."""
    health = {"slow_handshake_s": slow_handshake_s, "timeout_s": 6.0}

    async def main() -> None:
        async with drill(tmp_path, nodes, health=health) as scene:
            link = scene.links[0]
            began = await link.becomes(Condition(delay_s=0.4, jitter_s=0.05))
            async with visitors(scene.port, polling=False) as stream:
                if slow_handshake_s > 1:
                    # Few: they are on their way for longer, and least_connections counts them meanwhile.
                    await eventually(lambda: len(link.visitors) >= 3, within_s=30, what="visitors come")
                    assert await scene.events(0, began) == []
                else:
                    ejected = await scene.became(0, "ejected", began)
                    assert all(" failed there, for " in event["reason"] for event in ejected)
                    assert all("a WebSocket upgrade took" in event["reason"] for event in ejected)
            assert stream.failed == []
            await scene.others_were_left_alone(0, since=began)

    asyncio.run(main())


def test_lost_segments_take_nobody_out(tmp_path: Path, nodes: Sequence[NodeProcess]) -> None:
    """Of all pieces on all links one in twenty comes 0.2 s late or later: a nuisance, not a death."""

    async def main() -> None:
        async with drill(tmp_path, nodes, health={"timeout_s": 2.0}) as scene, visitors(scene.port) as stream:
            for link in scene.links:
                began = await link.becomes(Condition(lost=0.05))
            await eventually(lambda: all(len(link.probes) >= 60 for link in scene.links), within_s=30)
            await eventually(lambda: len(stream.visits) >= 60)
            await scene.others_were_left_alone(since=began)
        assert stream.failed == []

    asyncio.run(main())


def test_a_node_whose_answers_trickle_is_dead(tmp_path: Path, nodes: Sequence[NodeProcess]) -> None:
    """What does not answer a probe within its time helps nobody; who waits there is served elsewhere."""

    async def main() -> None:
        async with drill(tmp_path, nodes) as scene, visitors(scene.port) as stream:
            began = await scene.links[0].becomes(TRICKLES)
            gone_at = max(event["at"] for event in await scene.became(0, "down", began))
            await eventually(lambda: stream.all_over(gone_at), what="nobody waits for the dead node")
            await scene.others_were_left_alone(0, since=began)
        assert stream.failed == []

    asyncio.run(main())


def test_when_most_nodes_fail_clients_and_answer_probes_all_are_used_and_nobody_fails_any_more(
    tmp_path: Path, nodes: Sequence[NodeProcess]
) -> None:
    """Four of six are ejected: fewer than half are well.  Who fails at one of them is served by one that is well."""

    async def main() -> None:
        health = {"eject_s": 2.0}
        async with drill(tmp_path, nodes, health=health) as scene, visitors(scene.port) as stream:
            for link in scene.links[:4]:
                await link.becomes(Condition(Entrance.RESETS, spares=PROBE))
                link.reset()  # a connection of before would serve one now and then

            async def panic(begins: bool) -> list[dict[str, Any]]:
                kind = "too few nodes are well: using all that answer" if begins else "enough nodes are well"
                found = {event["worker"]: event for event in await scene.events(-1) if event["kind"] == kind}
                return list(found.values()) if len(found) == scene.workers else []

            began = await eventually(lambda: panic(True))
            assert {event["reason"] for event in began} <= {f"{n} of 6 nodes that answer are well" for n in (1, 2)}
            since = max(event["at"] for event in began)
            await eventually(
                lambda: sum(crossing.at > since for link in scene.links[:4] for crossing in link.visitors) >= 10,
                what="ejected nodes are used",
            )
            for link in scene.links[:4]:
                await link.becomes(WELL)
            await eventually(lambda: panic(False))
            await scene.all_ready()
            await stream.stay()
            assert [made for made in stream.failed if made.began > since] == []

    asyncio.run(main())


def test_when_all_links_are_dead_clients_are_told_to_come_again_and_then_are_served(
    tmp_path: Path, nodes: Sequence[NodeProcess]
) -> None:
    """503 with Retry-After at once; with the first node that is back it is over."""

    async def main() -> None:
        async with drill(tmp_path, nodes) as scene:
            for link in scene.links:
                began = await link.becomes(HANGS)
            for number in range(len(nodes)):
                await scene.became(number, "down", began)
            for polling in (False, True):
                turned_away = await visit(scene.port, polling=polling)
                assert (turned_away.status, turned_away.retry_after) == (503, "1")
            assert (await scene.stack.get("/healthz"))["status"] != "ok"
            healed = await scene.links[3].becomes(WELL)
            await scene.became(3, "ready", healed)
            found = Counter([(await visit(scene.port)).node for _ in range(8)])
            assert found == {scene.name(3): 8}
            for link in scene.links:
                await link.becomes(WELL)
            await scene.all_ready()
            assert HEALTH["rise"] == 1

    asyncio.run(main())
