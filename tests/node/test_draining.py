"""A node that an operator drains, and one that stops: who is refused, who is sent away, when and how fast."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.keys import Keys
from cluster.member import Drain
from cluster.orders import Orders
from cluster.redis_link import connection
from node import Server
from node.draining import MOST_LATE_S, TICK_S, Allowance
from node.echo import Echo
from tests.support.nodes import NodeProcess, node_here, running_node
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

OPEN = "/socket.io/?EIO=4&transport=websocket"
POLL = "/socket.io/?EIO=4&transport=polling"


class TestAllowance:
    """The pace, without a clock."""

    @given(
        per_s=st.floats(0.1, 1e5),
        steps=st.lists(st.floats(0.0, MOST_LATE_S), min_size=1, max_size=200),
    )
    def test_it_keeps_the_pace_however_the_ticks_fall(self, per_s: float, steps: list[float]) -> None:
        """Not one more than the time allows, and at most one less."""
        allowance, now = Allowance(), 10.0
        taken = allowance.take(per_s, now)
        for step in steps:
            now += step
            taken += allowance.take(per_s, now)
        due = per_s * (TICK_S + now - 10.0)
        assert due - 1.01 <= taken <= due + 0.01

    def test_what_a_stalled_loop_missed_does_not_go_all_at_once(self) -> None:
        """A minute's worth in one moment would be the storm that the pace is to prevent."""
        allowance = Allowance()
        allowance.take(100.0, 0.0)
        assert allowance.take(100.0, 60.0) == 100 * MOST_LATE_S

    def test_less_than_one_a_tick_adds_up(self) -> None:
        """One client every two seconds."""
        allowance = Allowance()
        assert sum(allowance.take(0.5, tick * 0.05) for tick in range(161)) == 4


@asynccontextmanager
async def ordered_node(valkey: Valkey, sio: Server | None = None, **nodes: Any) -> AsyncIterator[SimpleNamespace]:
    """Run a node here; gives its URL, its name, and where to order it."""
    sio = sio or Server()
    async with (
        connection(valkey.url) as link,
        aiohttp.ClientSession() as http,
        node_here(sio, redis=valkey.url, heartbeat_s=0.1, **nodes) as url,
    ):
        orders, sockets = Orders(link, Keys("flotilla")), list[aiohttp.ClientWebSocketResponse]()
        yield SimpleNamespace(url=url, name=sio.node.name, http=http, orders=orders, sio=sio, sockets=sockets)
        for websocket in sockets:
            await websocket.close()


def ordered(drain_s: float, close_per_s: float = 100.0) -> Drain:
    return Drain(since=time.time(), drain_s=drain_s, close_per_s=close_per_s)


async def _state(node: SimpleNamespace) -> tuple[int, str]:
    async with node.http.get(f"{node.url}/healthz") as answer:
        return answer.status, (await answer.json())["state"]


async def _is(node: SimpleNamespace, state: str) -> None:
    async def said() -> bool:
        status, now = await _state(node)
        return now == state and status == (200 if state == "ready" else 503)

    await eventually(said, what=f"it says {state}")


async def _connected(node: SimpleNamespace) -> aiohttp.ClientWebSocketResponse:
    websocket: aiohttp.ClientWebSocketResponse = await node.http.ws_connect(node.url + OPEN)
    node.sockets.append(websocket)
    await websocket.send_str("40")
    await websocket.receive()
    await websocket.receive()
    return websocket


async def _close_of(websocket: aiohttp.ClientWebSocketResponse) -> tuple[float, int | None]:
    """Return when the server closed, and with which code."""
    while (await websocket.receive()).type == aiohttp.WSMsgType.TEXT:
        pass
    return time.monotonic(), websocket.close_code


def test_an_order_refuses_newcomers_and_keeps_those_who_are_there(valkey: Valkey) -> None:
    """Until it is taken back: then everybody may come again."""

    async def main() -> None:
        sio = Server()

        @sio.event
        async def say(sid: str, text: str) -> str:
            return text

        async with ordered_node(valkey, sio) as node:
            websocket = await _connected(node)
            await node.orders.give(node.name, ordered(600))
            await _is(node, "draining")
            async with node.http.get(node.url + POLL) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await node.http.ws_connect(node.url + OPEN)
            assert refused.value.status == 503
            await websocket.send_str('421["say","still here"]')
            assert (await websocket.receive()).data == '431["still here"]'
            await node.orders.lift(node.name)
            await _is(node, "ready")
            await _connected(node)
            await websocket.send_str('422["say","and here"]')
            assert (await websocket.receive()).data == '432["and here"]'

    asyncio.run(main())


def test_when_its_time_is_over_they_are_sent_away_at_the_ordered_pace(valkey: Valkey) -> None:
    """Not before, not faster, with 1001; and who still is there when it is taken back stays."""

    async def main() -> None:
        async with ordered_node(valkey, drain_s=0.0) as node:
            sockets = [await _connected(node) for _ in range(20)]
            order = ordered(0.5, close_per_s=20)
            await node.orders.give(node.name, order)
            closings = [asyncio.ensure_future(_close_of(each)) for each in sockets]
            await lastingly(lambda: not any(each.done() for each in closings), 0.3, what="nobody is told yet")
            await eventually(lambda: sum(each.done() for each in closings) >= 10)
            await node.orders.lift(node.name)
            await _is(node, "ready")
            gone = [each.result() for each in closings if each.done()]
            assert {code for _, code in gone} == {1001}
            times = sorted(at for at, _ in gone)
            assert times[9] - times[0] >= 0.35, "ten at twenty a second"
            assert 10 <= len(gone) < 20
            assert node.sio.eio.connections == 20 - len(gone)
            await lastingly(lambda: node.sio.eio.connections == 20 - len(gone), 0.3)
            for each in closings:
                each.cancel()
            await asyncio.gather(*closings, return_exceptions=True)

    asyncio.run(main())


def test_a_client_that_waits_for_an_answer_gets_it_first(valkey: Valkey) -> None:
    """It is passed over while its handler runs, for as long as `nodes.drain_s`; then it goes, too."""

    async def main() -> None:
        sio = Server()
        release = asyncio.Event()

        @sio.event
        async def slow(sid: str) -> str:
            await release.wait()
            return "done"

        @sio.event
        async def hang(sid: str) -> None:
            await asyncio.Event().wait()

        async with ordered_node(valkey, sio, drain_s=1.0) as node:
            waiting, hanging, idle = [await _connected(node) for _ in range(3)]
            await waiting.send_str('421["slow"]')
            await hanging.send_str('421["hang"]')
            await eventually(lambda: len(sio.eio.handler.moving.busy()) == 2)
            began = time.monotonic()
            await node.orders.give(node.name, ordered(0))
            assert (await _close_of(idle))[1] == 1001
            assert not waiting.closed
            release.set()
            assert (await waiting.receive()).data == '431["done"]'
            assert (await _close_of(waiting))[1] == 1001
            at, code = await _close_of(hanging)
            assert code == 1001
            assert at - began >= 0.9

    asyncio.run(main())


def test_a_poll_ends_with_503_under_an_order_too(valkey: Valkey) -> None:
    """To every client that looks like a lost transport."""

    async def main() -> None:
        async with ordered_node(valkey) as node:
            async with node.http.get(node.url + POLL) as answer:
                polling = f"{node.url}{POLL}&sid=" + (await answer.text()).partition('"sid":"')[2].partition('"')[0]
            poll = asyncio.ensure_future(node.http.get(polling))
            [session] = node.sio.eio.sessions.values()
            await eventually(lambda: session.polling.has_poll)
            await node.orders.give(node.name, ordered(0))
            for answer in (await poll, await node.http.get(polling)):
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                answer.release()

    asyncio.run(main())


def test_websockets_of_the_application_are_sent_away_at_the_same_pace(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp's and channels; one that never answers holds nobody up, and is cut."""
    caplog.set_level(logging.INFO, "node.guests")

    async def main() -> None:
        sio = Server()

        async def through_aiohttp(request: web.Request) -> web.StreamResponse:
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            if request.path == "/silent":
                await asyncio.Event().wait()
            async for _ in websocket:
                pass
            return websocket

        async def through_a_channel(request: web.Request) -> web.StreamResponse:
            return sio.eio.guests.open(request, Echo())[1]

        sio.web.add_routes([web.get(path, through_aiohttp) for path in ("/aiohttp", "/silent")])
        sio.web.add_routes([web.get("/channel", through_a_channel)])
        async with ordered_node(valkey, sio) as node:
            sockets = [await node.http.ws_connect(node.url + path) for path in ("/aiohttp", "/channel") * 4]
            # Nobody reads here, so nobody answers the close frame.
            deaf = await node.http.ws_connect(node.url + "/silent", autoclose=False)
            guests = sio.eio.guests
            await eventually(lambda: guests.count == 9)
            await node.orders.give(node.name, ordered(0.3, close_per_s=10))
            times = await asyncio.gather(*(_close_of(each) for each in sockets))
            assert {code for _, code in times} == {1001}
            at = sorted(at for at, _ in times)
            assert at[-1] - at[0] >= 0.5, "eight at ten a second"
            await eventually(lambda: guests.count == 0)
            await eventually(lambda: "WebSocket cut: no answer to its close" in caplog.messages)
            await deaf.close()

    asyncio.run(main())


def test_an_order_holds_for_the_next_process_of_that_name(tmp_path: Path, valkey: Valkey) -> None:
    """From its first word on."""

    async def main() -> None:
        port = str(free_port())
        arguments = ("--redis", valkey.url, "--port", port, "--name", "n-ordered")
        async with connection(valkey.url) as link:
            orders = Orders(link, Keys("flotilla"))
            async with running_node(tmp_path, *arguments) as node:
                assert (await node.healthz())["state"] == "ready"
                await orders.give("n-ordered", ordered(600))
                node.kill()
                await node.process.wait()
            async with running_node(tmp_path, *arguments) as node:
                told = await node.healthz()
                assert (told["http"], told["state"], told["status"]) == (503, "draining", "draining")
                log = node.said()
                assert log.index("drained by an operator") < log.index("node ready")
                await orders.lift("n-ordered")
                await eventually(lambda: _is_ready(node))

    asyncio.run(main())


async def _is_ready(node: NodeProcess) -> bool:
    return bool((await node.healthz())["state"] == "ready")


def test_an_order_stands_while_redis_is_away_and_when_it_has_forgotten(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Balancers write it again; meanwhile the node must not believe that it was taken back."""
    caplog.set_level(logging.INFO, "node.draining")

    async def main() -> None:
        async with ordered_node(valkey) as node:
            await node.orders.give(node.name, ordered(600))
            await _is(node, "draining")
            valkey.kill()
            await eventually(lambda: _redis_is(node, "away"))
            assert await _state(node) == (503, "draining")
            valkey.start()
            await eventually(lambda: _redis_is(node, "ok"))
            async with connection(valkey.url) as link:
                orders = Orders(link, Keys("flotilla"))
                assert await orders.of(node.name) is None, "it came back empty"
                await lastingly(lambda: node.sio.eio.leaving, 0.5)
                assert await _state(node) == (503, "draining")
                await orders.lift(node.name)
                await _is(node, "ready")

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records if record.name == "node.draining"]
    assert told[:2] == ["drained by an operator", "drained no more"]


async def _redis_is(node: SimpleNamespace, state: str) -> bool:
    async with node.http.get(f"{node.url}/healthz") as answer:
        return bool((await answer.json())["redis"] == state)


def test_a_node_that_stops_sends_its_clients_away_at_the_pace_of_orders() -> None:
    """SIGTERM: not all in one moment, as long as there is time."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            async with node_here(Server(), drain_s=600.0, close_per_s=20.0) as url:
                node = SimpleNamespace(url=url, http=http, sockets=[])
                closings = [asyncio.ensure_future(_close_of(await _connected(node))) for _ in range(16)]
            # That it ended by now says that nobody waits for time to pass when all have gone.
            times = sorted([(await each)[0] for each in closings])
            assert {(await each)[1] for each in closings} == {1001}
            assert times[-1] - times[0] >= 0.5, "sixteen at twenty a second"

    asyncio.run(main())


def test_a_node_that_stops_hurries_where_the_pace_is_too_slow_for_its_time() -> None:
    """The supervisor kills who is not done 5 s after `drain_s`: all are told before, still spread."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            async with node_here(Server(), drain_s=2.0, close_per_s=0.01) as url:
                node = SimpleNamespace(url=url, http=http, sockets=[])
                closings = [asyncio.ensure_future(_close_of(await _connected(node))) for _ in range(40)]
            times = sorted([(await each)[0] for each in closings])
            assert {(await each)[1] for each in closings} == {1001}
            assert times[-1] - times[0] >= 0.6

    asyncio.run(main())


def test_a_node_that_stops_while_it_is_drained_is_not_ready_again(valkey: Valkey) -> None:
    """An order that is taken back in that moment changes nothing any more."""

    async def main() -> None:
        sio = Server()
        release = asyncio.Event()

        @sio.event
        async def hold(sid: str) -> None:
            await release.wait()

        async with connection(valkey.url) as link, aiohttp.ClientSession() as http:
            orders = Orders(link, Keys("flotilla"))
            async with node_here(sio, redis=valkey.url, heartbeat_s=0.1, drain_s=6.0) as url:
                node = SimpleNamespace(url=url, http=http, sockets=[])
                websocket = await _connected(node)
                await orders.give(sio.node.name, ordered(600))
                await _is(node, "draining")
                await websocket.send_str('42["hold"]')
                await eventually(lambda: sio.eio.handler.moving.busy())

                async def lifted() -> None:
                    await orders.lift(sio.node.name)
                    await lastingly(lambda: sio.eio.leaving, 0.5)
                    assert await _state(node) == (503, "draining")
                    release.set()

                lifting, closing = asyncio.ensure_future(lifted()), asyncio.ensure_future(_close_of(websocket))
            await lifting
            assert (await closing)[1] == 1001

    asyncio.run(main())
