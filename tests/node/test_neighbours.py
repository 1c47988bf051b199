"""node/neighbours.py: who the others are, and who may still be there when the registry has forgotten."""

from __future__ import annotations

import asyncio

from cluster.member import NodeRecord
from node.neighbours import Neighbours
from tests.support.waiting import eventually


class List:
    """Stands in for the registry."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_away = False

    async def members(self) -> list[NodeRecord]:
        if self.is_away:
            raise ConnectionError("away")
        return [NodeRecord(name=name, host="h", port=1, incarnation="i") for name in self.names]


def names(neighbours: Neighbours) -> list[str]:
    return sorted(record.name for record in neighbours.records)


def test_everybody_else_is_a_neighbour() -> None:
    """Read with each heartbeat, until cancelled."""

    async def main() -> None:
        registry = List()
        neighbours = Neighbours(registry, "me", heartbeat_s=0.01, lease_s=1)
        running = asyncio.ensure_future(neighbours.run())
        registry.names = ["me", "a", "b"]
        await eventually(lambda: names(neighbours) == ["a", "b"])
        registry.names = ["b"]
        await eventually(lambda: names(neighbours) == ["b"])
        assert sorted(neighbours.expected()) == ["a", "b"], "a is waited for as long as its lease"
        await eventually(lambda: sorted(neighbours.expected()) == ["b"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_an_outage_changes_no_picture_and_starts_every_lease_anew() -> None:
    """Redis came back empty after longer than a lease: nobody has had the time to announce themselves again."""

    async def main() -> None:
        registry = List()
        registry.names = ["a", "b"]
        neighbours = Neighbours(registry, "me", heartbeat_s=1, lease_s=0.1)
        assert await neighbours.refresh()
        registry.is_away, registry.names = True, []
        assert not await neighbours.refresh()
        assert names(neighbours) == ["a", "b"]
        await asyncio.sleep(0.15)
        registry.is_away = False
        assert await neighbours.refresh()
        assert names(neighbours) == []
        assert sorted(neighbours.expected()) == ["a", "b"]
        await asyncio.sleep(0.15)
        await neighbours.refresh()
        assert not neighbours.expected()

    asyncio.run(main())
