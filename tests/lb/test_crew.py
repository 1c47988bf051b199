"""Workers and nodes of a stack: replaced without a gap, rolled one at a time, and judged at start-up.

The children are real processes, but small ones.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.child import ChildState, Spec
from cluster.config import Config
from cluster.errors import StartError, UsageError
from cluster.rundir import RunDir
from lb.crew import Crew, NotReady
from lb.roster import Doors, Roster
from tests.support.children import SERVE, script, supervising
from tests.support.waiting import eventually

WRONG = "sys.stderr.write('wrong option\\n'); sys.exit(2)"
CRASH = "sys.exit(1)"


@dataclass(frozen=True)
class Scripted(Roster):
    """A roster of small scripts."""

    worker_code: str = SERVE
    node_code: str = SERVE

    def worker(self, index: int, doors: Doors) -> Spec:
        return script(self.worker_code, f"worker-{index}", facts={"kind": "worker"})

    def node(self, port: int) -> Spec:
        return script(self.node_code, f"n{port}", facts={"kind": "node"})


def _roster(directory: Path, workers: int = 1, nodes: int = 2, **codes: str) -> Scripted:
    config = Config.model_validate({"lb": {"workers": workers}, "nodes": {"local": nodes}})
    return Scripted(config, directory, RunDir(directory), directory / "config", **codes)


@asynccontextmanager
async def crewing(directory: Path, **options: Any) -> AsyncIterator[tuple[Crew, Doors]]:
    """Start a crew and wait until all of it has settled."""
    async with supervising(directory) as (supervisor, _):
        crew = Crew(supervisor)
        with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as admin:
            doors = Doors(public, admin)
            crew.start(_roster(directory, **options), doors)
            await crew.settled(20)
            yield crew, doors


def test_all_that_the_roster_asks_for_is_started(tmp_path: Path) -> None:
    """Workers and nodes, all of them ready, nothing to complain about."""

    async def main() -> None:
        async with crewing(tmp_path, workers=2) as (crew, _):
            assert [child.name for child in crew.everyone] == ["worker-0", "worker-1", "n3000", "n3001"]
            assert crew.not_ready() == []
            assert crew.verdict() is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        ({"node_code": WRONG}, UsageError, "n3000: wrong option"),
        ({"node_code": CRASH}, StartError, "n3000: ended with status 1"),
        ({"worker_code": WRONG}, UsageError, "worker-0: wrong option"),
    ],
)
def test_a_start_up_without_any_node_or_worker_is_judged(
    tmp_path: Path, codes: dict[str, str], error: type[Exception], text: str
) -> None:
    """Status 2 if there is no hope, else 1; the first one's reason speaks for all."""

    async def main() -> None:
        async with crewing(tmp_path, **codes) as (crew, _):
            verdict = crew.verdict()
            assert type(verdict) is error
            assert str(verdict) == text
            assert len(crew.not_ready()) == (2 if "node_code" in codes else 1)

    asyncio.run(main())


def test_one_that_serves_is_enough_to_go_on(tmp_path: Path) -> None:
    """The others are said to be missing."""

    async def main() -> None:
        code = f"try: os.mkdir({str(tmp_path / 'first')!r})\nexcept FileExistsError: {CRASH}\n{SERVE}"
        async with crewing(tmp_path, node_code=code) as (crew, _):
            assert crew.verdict() is None
            assert len(crew.not_ready()) == 1
            assert "given up: ended with status 1" in crew.not_ready()[0]

    asyncio.run(main())


def test_new_workers_stand_beside_the_old_ones_until_they_serve(tmp_path: Path) -> None:
    """Only then the old ones are given back, to be stopped."""

    async def main() -> None:
        async with crewing(tmp_path) as (crew, doors):
            before = crew.workers
            old = await crew.replace_workers(_roster(tmp_path, workers=2), doors)
            assert old == before
            assert [child.state for child in (*old, *crew.workers)] == [ChildState.READY] * 3

    asyncio.run(main())


def test_new_workers_that_do_not_serve_leave_the_old_ones_alone(tmp_path: Path) -> None:
    """They are stopped again, and nothing has changed."""

    async def main() -> None:
        async with crewing(tmp_path) as (crew, doors):
            before, children = crew.workers, list(crew.supervisor.children)
            with pytest.raises(NotReady, match=r"worker-0 \(given up: wrong option\)"):
                await crew.replace_workers(_roster(tmp_path, worker_code=WRONG), doors)
            assert crew.workers == before
            assert crew.supervisor.children == children
            assert before[0].state is ChildState.READY

    asyncio.run(main())


def test_nodes_roll_one_at_a_time(tmp_path: Path) -> None:
    """At no moment are two of them away."""

    async def main() -> None:
        async with crewing(tmp_path, nodes=3) as (crew, _):
            least = 3

            def count(_: object) -> None:
                nonlocal least
                least = min(least, sum(child.state is ChildState.READY for child in crew.nodes.values()))

            crew.supervisor.on_change = count
            before = dict(crew.nodes)
            await crew.roll_nodes([3000, 3001, 3002], _roster(tmp_path, nodes=3))
            assert least == 2
            assert all(crew.nodes[port] is not before[port] for port in before)

    asyncio.run(main())


def test_a_roll_ends_at_the_first_failure_with_the_old_settings_back(tmp_path: Path) -> None:
    """One node was away for a moment, the others never."""

    async def main() -> None:
        async with crewing(tmp_path) as (crew, _):
            spec, untouched = crew.nodes[3000].spec, crew.nodes[3001]
            with pytest.raises(NotReady, match="wrong option"):
                await crew.roll_nodes([3000, 3001], _roster(tmp_path, node_code=WRONG))
            assert crew.nodes[3000].spec == spec
            assert crew.nodes[3000].state is ChildState.READY
            assert crew.nodes[3001] is untouched
            assert crew.verdict() is None

    asyncio.run(main())


def test_nodes_are_added_and_removed(tmp_path: Path) -> None:
    """What is removed is stopped and forgotten."""

    async def main() -> None:
        async with crewing(tmp_path) as (crew, _):
            await crew.add_nodes([3005], _roster(tmp_path))
            assert crew.nodes[3005].state is ChildState.READY
            gone = crew.nodes[3000]
            await crew.remove_nodes([3000])
            assert gone.state is ChildState.STOPPED
            assert list(crew.nodes) == [3001, 3005]
            assert gone not in crew.supervisor.children

    asyncio.run(main())


def test_those_that_stay_begin_their_next_life_with_the_new_roster(tmp_path: Path) -> None:
    """So that the old resolved configuration may go."""

    async def main() -> None:
        async with crewing(tmp_path) as (crew, doors):
            crew.adopt(_roster(tmp_path, node_code="print('new', flush=True)\n" + SERVE), doors)
            child = crew.nodes[3000]
            first = child.pid
            # It has no handler for SIGHUP, and dies of it.
            child.hang_up()
            await eventually(lambda: child.state is ChildState.READY and child.pid not in (None, first))
            await eventually(lambda: "n3000" in (tmp_path / "said.log").read_text(encoding="utf-8"))

    asyncio.run(main())
