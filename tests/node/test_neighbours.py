"""node/neighbours.py: who the others are, and who may still be there when the registry has forgotten."""

from __future__ import annotations

import asyncio

import pytest

from cluster.member import NodeRecord
from node import neighbours as neighbours_module
from node.neighbours import Neighbours
from tests.support.waiting import eventually, lastingly


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


def test_with_many_neighbours_each_looks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes read about all: a thousand would read a million records with each heartbeat."""
    monkeypatch.setattr(neighbours_module, "MANY", 1)

    async def main() -> None:
        registry = List()
        registry.names = [f"n{number}" for number in range(1000)]
        neighbours = Neighbours(registry, "me", heartbeat_s=0.02, lease_s=1)
        running = asyncio.ensure_future(neighbours.run())
        await eventually(lambda: len(neighbours.records) == 1000)
        registry.names = []
        await lastingly(lambda: len(neighbours.records) == 1000, 0.2)
        running.cancel()

    asyncio.run(main())


def test_everybody_else_is_a_neighbour() -> None:
    """Read with each heartbeat, until cancelled."""

    async def main() -> None:
        registry = List()
        neighbours = Neighbours(registry, "me", heartbeat_s=0.01, lease_s=2)
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
        await lastingly(lambda: names(neighbours) == ["a", "b"], 0.15)
        registry.is_away = False
        assert await neighbours.refresh()
        assert names(neighbours) == []
        assert sorted(neighbours.expected()) == ["a", "b"]

        async def nobody() -> bool:
            return await neighbours.refresh() and not neighbours.expected()

        await eventually(nobody)

    asyncio.run(main())
