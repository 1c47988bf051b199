"""Live connections move between two node processes, with everything that belongs to them, while their clients talk."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.clients import CROWDS, WEBSOCKET, Client
from tests.support.moving_app import NAP_EVERY
from tests.support.nodes import NodeProcess, running_node
from tests.support.raw_socketio import ENGINE
from tests.support.talker import Talker, talkers
from tests.support.waiting import eventually
from tests.support.websockets import Client as WebSocket
from tests.support.websockets import opened, text

CLIENTS, PER_ROOM, ROUNDS = 200, 10, 3
FLOOD, LARGE = 5, 16_000_000
DROP = b'42["drop",'


@pytest.fixture
def meeting_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the nodes pass sessions to each other.  A short path: a unix socket's has at most 107 bytes."""
    directory = tempfile.mkdtemp(prefix="moves-")
    monkeypatch.setenv("MOVES", directory)
    yield
    shutil.rmtree(directory)


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[tuple[NodeProcess, NodeProcess]]:
    app = ("--redis", "none", "--app", "tests.support.moving_app:sio")
    async with running_node(directory, *app) as here, running_node(directory, *app) as there:
        yield here, there


async def move(source: NodeProcess, to: NodeProcess) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.post(f"{source.url}/move?to={to.port}") as answer:
        assert answer.status == 200, await answer.text()
        moved: dict[str, Any] = await answer.json()
        return moved


async def state(node: NodeProcess) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{node.url}/state") as answer:
        said: dict[str, Any] = await answer.json()
        return said


def test_live_clients_move_to_another_process_and_back_under_load_and_notice_nothing(
    tmp_path: Path, meeting_place: None
) -> None:
    """No disconnection; no event, answer or broadcast lost, doubled or out of order; rooms and sessions go along."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            here, there = await stack.enter_async_context(two_nodes(tmp_path))
            crowd = await stack.enter_async_context(talkers(here.url, CLIENTS, PER_ROOM))
            real = {kind: await stack.enter_async_context(make()) for kind, make in CROWDS.items()}
            clients = [await each.connect(here.url, WEBSOCKET) for each in real.values()]
            is_over = asyncio.Event()
            calling = [asyncio.ensure_future(_calls(client, is_over)) for client in clients]
            await _all_go_on(crowd)
            for number in range(ROUNDS):
                for source, to in ((here, there), (there, here)):
                    moved = await move(source, to)
                    assert moved["moved"] == CLIENTS + len(clients), (number, source.said(), to.said())
                    await _all_go_on(crowd)
            for talker in crowd:
                talker.finish()
            await eventually(lambda: all(talker.is_answered() for talker in crowd), what="every answer came")
            await eventually(lambda: _missing(crowd) == 0, what="every shout was heard")
            _check(crowd, processes=2)
            is_over.set()
            for client, count in zip(clients, await asyncio.gather(*calling), strict=True):
                assert count > 2 * ROUNDS
                assert (client.heard.connects, client.heard.disconnects) == (1, [])
            pid = (await state(here))["pid"]
            for talker in crowd:
                known = await talker.ask_who()
                assert known["rooms"] == sorted([talker.sid, talker.room])
                assert (known["name"], known["heard"], known["shouts"]) == (talker.name, talker.said, talker.shouted)
                assert (known["sid"], known["pid"], known["user"]) == (talker.sid, pid, talker.name)
            assert [(await state(node))["ended"] for node in (here, there)] == [[], []]

    asyncio.run(main())


def test_clients_whom_nobody_takes_go_on_where_they_were(tmp_path: Path, meeting_place: None) -> None:
    """The other process has died, or was never there."""

    async def main() -> None:
        async with two_nodes(tmp_path) as (here, there), talkers(here.url, 20, PER_ROOM) as crowd:
            await there.stop()
            await _all_go_on(crowd)
            for _ in range(2):
                assert (await move(here, there))["moved"] == 0
                await _all_go_on(crowd)
            for talker in crowd:
                talker.finish()
            await eventually(lambda: all(talker.is_answered() for talker in crowd), what="every answer came")
            await eventually(lambda: _missing(crowd) == 0, what="every shout was heard")
            _check(crowd, processes=1)
            assert (await state(here))["ended"] == []

    asyncio.run(main())


async def _calls(client: Client, is_over: asyncio.Event) -> int:
    """Call again and again; return how often."""
    count = 0
    while not is_over.is_set():
        count += 1
        answer = await client.call("count", count, "x")
        assert answer[:3] == [count, True, "x"]
    return count


async def _all_go_on(crowd: list[Talker]) -> None:
    """Return when each has got two more answers from where it is now."""
    goals = [len(talker.answered) + 2 for talker in crowd]

    def are_there() -> bool:
        assert not any(talker.faults for talker in crowd), [talker.faults for talker in crowd if talker.faults]
        return all(len(talker.answered) >= goal for talker, goal in zip(crowd, goals, strict=True))

    await eventually(are_there, what="everybody goes on")


def _missing(crowd: list[Talker]) -> int:
    return sum(
        other.shouted - len(talker.heard[other.name]) + other.said // NAP_EVERY - len(talker.woken[other.name])
        for talker in crowd
        for other in crowd
        if other.room == talker.room
    )


def _check(crowd: list[Talker], *, processes: int) -> None:
    for talker in crowd:
        assert talker.faults == []
        assert sorted(talker.answered) == list(range(1, talker.said + 1))
        assert len(talker.pids) == processes
        for other in crowd:
            if other.room == talker.room:
                assert talker.heard[other.name] == list(range(1, other.shouted + 1))
                assert talker.woken[other.name] == list(range(NAP_EVERY, other.said + 1, NAP_EVERY))
        assert len(talker.heard) == len(talker.woken) == PER_ROOM, "nobody from another room"


def test_a_client_that_does_not_read_is_sent_away_after_what_was_sent_to_it(
    tmp_path: Path, meeting_place: None
) -> None:
    """What its transport holds cannot move.  Close code 1001, within the deadline: it comes back by itself."""

    async def main() -> None:
        async with two_nodes(tmp_path) as (here, there):
            with await asyncio.to_thread(_slow, here.port) as client:

                async def is_flooded() -> bool:
                    return bool((await state(here))["flooded"])

                await eventually(is_flooded)
                moved = await move(here, there)
                assert moved["moved"] == 0
                assert moved["worst_s"] >= 1.0
                heard = await asyncio.to_thread(client.hear_all)
                assert heard[-1].code == 1001
                drops = [frame.payload for frame in heard if frame.payload.startswith(DROP)]
                numbers = [int(drop[len(DROP) :].split(b",", 1)[0]) for drop in drops]
                assert numbers == list(range(FLOOD))
            assert (await state(here))["ended"] == ["server leaves"]
            assert (await state(there))["sids"] == []

    asyncio.run(main())


def _slow(port: int) -> WebSocket:
    """Return a client that asked for more than its connection holds."""
    client = opened(port, ENGINE)
    client.hear()
    client.say(text("40"))
    client.hear()
    client.say(text(f'42["flood",{FLOOD},{LARGE}]'))
    return client
