"""lb/events.py and lb/entrance.py: what happened, why, and to whom it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.member import Signal, State
from cluster.rundir import RunDir
from lb.crowd import Crowd
from lb.entrance import Entrance
from lb.events import KEEP, Events
from lb.pool import Change
from tests.support.waiting import eventually, lastingly


def change(node: str, state: State = State.READY) -> Change:
    return Change(node, State.JOINING, state, Signal.RISE, "answers its probes", 1.0)


def test_the_last_events_are_kept_with_all_facts(tmp_path: Path) -> None:
    """In order, and never more than KEEP."""
    at = itertools.count(100.0)
    events = Events(RunDir(tmp_path), 3, wall=lambda: next(at))
    for number in range(KEEP + 5):
        events.changed(change(f"n{number}"))
    kept = events.latest()
    assert [event.node for event in kept] == [f"n{number}" for number in range(5, KEEP + 5)]
    last = kept[-1]
    assert (last.worker, last.kind, last.before, last.state, last.signal, last.reason) == (
        *(3, "node", "joining", "ready", "rise"),
        "answers its probes",
    )


def test_each_change_is_a_log_line_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Operators read logs first."""
    caplog.set_level("INFO")
    events = Events(RunDir(tmp_path), 0)
    events.changed(change("n1"))
    events.panicked(True, "1 of 3 nodes that answer are well")
    events.panicked(False, "2 of 3 nodes that answer are well")
    assert [record.getMessage() for record in caplog.records] == [
        "node changed",
        "too few nodes are well: using all that answer",
        "enough nodes are well",
    ]
    assert caplog.records[0].__dict__["reason"] == "answers its probes"


def test_whoever_is_asked_shows_the_events_of_all_workers(tmp_path: Path) -> None:
    """By time."""

    async def main() -> None:
        one = Events(RunDir(tmp_path), 0, wall=lambda: 5.0)
        other = {"pid": 1, "events": [{"at": 4.0, "worker": 1, "kind": "node", "reason": "r", "node": "n7"}]}
        RunDir(tmp_path).publish("events-1-1", other)
        RunDir(tmp_path).publish("events-2-1", {"pid": 1, "events": [{"of": "another version"}]})
        running = asyncio.ensure_future(one.run())
        one.changed(change("n1"))
        assert [event.node for event in one.latest()] == ["n7", "n1"]
        await eventually(lambda: RunDir(tmp_path).report(one.name))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_a_worker_goes_on_with_the_list_of_a_dead_one(tmp_path: Path) -> None:
    """Its report goes, so that they do not pile up; one that lives keeps its own."""
    dead = {"pid": 2**22 + 1, "events": [{"at": 4.0, "worker": 0, "kind": "node", "reason": "r", "node": "n7"}]}
    RunDir(tmp_path).publish("events-0-4194305", dead)
    RunDir(tmp_path).publish(f"events-0-{os.getppid()}", dead | {"pid": os.getppid()})
    events = Events(RunDir(tmp_path), 0)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"events-0-{os.getppid()}.json"]
    assert [event.node for event in events.latest()] == ["n7", "n7"]


def test_a_directory_that_cannot_be_written_to_costs_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the list that the others see."""

    async def main() -> None:
        events = Events(RunDir(tmp_path / "nowhere"), 0)
        running = asyncio.ensure_future(events.run())
        for number in range(3):
            events.changed(change(f"n{number}"))
            await eventually(lambda: _not_written(caplog), what="it tried")
            await lastingly(lambda: _not_written(caplog) == 1, 0.12)
        assert len(events.latest()) == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert _not_written(caplog) == 1


def _not_written(caplog: pytest.LogCaptureFixture) -> int:
    return [record.getMessage() for record in caplog.records].count("events not written")


@dataclass
class Door:
    crowd: Crowd = field(default_factory=Crowd)
    waiting: int = 4


def test_one_address_that_hides_most_clients_is_told_once() -> None:
    """With what to do; and again only if it is another one."""
    told: list[tuple[str, str]] = []
    door = Door()
    entrance = Entrance(door, lambda kind, reason: told.append((kind, reason)))
    assert entrance.look() == {"waiting": 4, "hash_key": "", "hash_share": 0.0}
    for _ in range(200):
        door.crowd.saw("10.0.0.1")
    for _ in range(3):
        assert entrance.look() == {"waiting": 4, "hash_key": "10.0.0.1", "hash_share": 1.0}
    assert len(told) == 1
    assert "lb.trusted_proxies" in told[0][1]
    door.crowd = Crowd({"10.0.0.2": 150}, 150)
    entrance.look()
    assert len(told) == 2


def test_events_are_json(tmp_path: Path) -> None:
    """Whatever is in them came from others."""

    async def main() -> None:
        events = Events(RunDir(tmp_path), 0)
        events.happened("odd", 'with "quotes" and \x00', "n1")
        running = asyncio.ensure_future(events.run())
        await eventually(lambda: (tmp_path / f"{events.name}.json").exists())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert json.loads((tmp_path / f"{events.name}.json").read_text())["events"][0]["node"] == "n1"

    asyncio.run(main())
