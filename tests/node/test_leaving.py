"""A node that stops: its clients are told so that they come back by themselves, elsewhere, and it ends in time."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import aiohttp
import pytest

from cluster.closing import CloseCode
from cluster.config import Config
from cluster.config_file import Loaded
from cluster.keys import Keys
from cluster.member import State
from cluster.redis_link import connection
from cluster.registry import Registry
from node import Server
from node.app import NodeOptions, serve
from node.session import SERVER_LEAVES
from tests.support.clients import CROWDS, POLLING, UPGRADE, WEBSOCKET, Client
from tests.support.nodes import node_here, running_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

OPEN = "/socket.io/?EIO=4&transport=websocket"


@pytest.mark.parametrize("kind", sorted(CROWDS))
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET, UPGRADE], ids=["polling", "websocket", "upgrade"])
def test_clients_of_a_stopping_node_come_back_by_themselves(
    tmp_path: Path, kind: str, transports: tuple[str, ...]
) -> None:
    """Real clients, each transport: they lose the connection and try again, which a disconnect packet would forbid."""

    async def main() -> None:
        async with CROWDS[kind]() as crowd:
            # Who waits for all of this time is no node that stops.
            (tmp_path / "config.yaml").write_text("nodes: {drain_s: 600}", encoding="utf-8")
            options = ("--redis", "none", "--config", str(tmp_path / "config.yaml"))
            async with running_node(tmp_path, *options) as node:
                clients = [await crowd.connect(node.url, transports) for _ in range(3)]
                port = node.port
                assert await node.stop() == 0
                await eventually(lambda: all(client.heard.disconnects for client in clients))
            async with running_node(tmp_path, "--redis", "none", "--port", str(port)):
                await eventually(lambda: _all_back(clients), what="connected again, to whoever listens there now")

    asyncio.run(main())


def _all_back(clients: list[Client]) -> bool:
    return all(client.heard.connects == 2 for client in clients)


def test_a_websocket_is_closed_with_1001_after_what_was_queued() -> None:
    """RFC 6455 7.4.1, going away; the answer to an event that is being handled comes first."""

    async def main() -> None:
        sio = Server()
        begun, reasons = asyncio.Event(), []

        @sio.event
        async def slow(sid: str) -> str:
            begun.set()
            await eventually(lambda: sio.eio.leaving)
            return "done"

        @sio.event
        async def disconnect(sid: str, reason: str) -> None:
            reasons.append(reason)

        async with aiohttp.ClientSession() as session:
            async with node_here(sio) as url:
                websocket = await session.ws_connect(url + OPEN)
                await websocket.receive()
                await websocket.send_str("40")
                await websocket.receive()
                await websocket.send_str('420["slow"]')
                await begun.wait()
                # Leaving the block stops the node while the handler runs.
                answers = asyncio.ensure_future(_until_closed(websocket))
            assert await answers == ['430["done"]', CloseCode.GOING_AWAY]
            assert reasons == [SERVER_LEAVES]

    asyncio.run(main())


async def _until_closed(websocket: aiohttp.ClientWebSocketResponse) -> list[object]:
    heard: list[object] = []
    while True:
        message = await websocket.receive()
        heard.append(message.data)
        if message.type != aiohttp.WSMsgType.TEXT:
            return heard


def test_a_poll_ends_with_503_and_so_does_the_next() -> None:
    """To every client that looks like a lost transport; the disconnect handler runs once."""

    async def main() -> None:
        sio = Server()
        reasons = []

        @sio.event
        async def disconnect(sid: str, reason: str) -> None:
            reasons.append(reason)

        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            polling = f"{url}/socket.io/?EIO=4&transport=polling"
            async with session.get(polling) as answer:
                polling += "&sid=" + (await answer.text()).partition('"sid":"')[2].partition('"')[0]
            async with session.post(polling, data="40") as answer:
                assert answer.status == 200
            async with session.get(polling) as answer:
                assert (await answer.text()).startswith("40")
            poll = asyncio.ensure_future(session.get(polling))
            [own] = sio.eio.sessions.values()
            await eventually(lambda: own.polling and own.polling.has_poll, what="the poll waits")
            sio.eio.leave()
            assert await sio.eio.close_all(1.0) == 0
            for answer in (await poll, await session.get(polling)):
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                answer.release()
            assert reasons == [SERVER_LEAVES]

    asyncio.run(main())


def test_it_says_that_it_leaves_before_it_tells_anybody_and_takes_nobody_new(tmp_path: Path, valkey: Valkey) -> None:
    """Draining in the registry, 503 with Retry-After for new sessions and at /healthz; at the end it is signed off."""

    async def main() -> None:
        sio = Server()
        begun, release = asyncio.Event(), asyncio.Event()

        @sio.event
        async def hold(sid: str) -> None:
            begun.set()
            await release.wait()

        async with connection(valkey.url) as link, aiohttp.ClientSession() as session:
            registry = Registry(link, Keys("flotilla"))
            stopping = asyncio.Event()
            config = Config.model_validate({"redis": valkey.url, "nodes": {"drain_s": 10.0}})
            options = NodeOptions(Loaded(config, tmp_path, None), "127.0.0.1", 0)
            serving = asyncio.ensure_future(serve(options, sio, stopping))
            [record] = await eventually(registry.members)
            assert record.state is State.READY
            url = f"http://127.0.0.1:{record.port}"
            async with session.ws_connect(url + OPEN) as websocket:
                await websocket.send_str("40")
                await websocket.send_str('42["hold"]')
                await begun.wait()
                stopping.set()

                async def is_draining() -> bool:
                    [record] = await registry.members()
                    return record.state is State.DRAINING

                await eventually(is_draining)
                assert not websocket.closed
                async with session.get(f"{url}/healthz") as answer:
                    assert (answer.status, (await answer.json())["status"]) == (503, "draining")
                async with session.get(f"{url}/socket.io/?EIO=4&transport=polling") as answer:
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                release.set()
                assert (await _until_closed(websocket))[-1] == CloseCode.GOING_AWAY
            assert await serving == 0
            assert await registry.members() == []

    asyncio.run(main())


def test_it_ends_within_its_deadline_whatever_handlers_and_clients_do(tmp_path: Path) -> None:
    """A handler that never ends, a disconnect handler that never ends, a client that never reads."""

    async def main() -> None:
        sio = Server()

        @sio.event
        async def hang(sid: str) -> None:
            await asyncio.Event().wait()

        @sio.event
        async def disconnect(sid: str, reason: str) -> None:
            await asyncio.Event().wait()

        @sio.event
        async def flood(sid: str) -> None:
            for _ in range(200):
                await sio.emit("x", "y" * 100_000, to=sid)

        async with aiohttp.ClientSession() as session:
            async with node_here(sio, drain_s=1.0) as url:
                websocket = await session.ws_connect(url + OPEN)
                await websocket.send_str("40")
                await websocket.send_str('42["hang"]')
                deaf = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
                deaf.sendall(
                    f"GET {OPEN} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
                )
                for text in (b"40", b'42["flood"]'):
                    deaf.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
                await eventually(lambda: any(each.waiting_bytes for each in sio.eio.sessions.values()))
            deaf.close()
            await websocket.close()

    asyncio.run(main())


def test_with_drain_zero_it_cuts_at_once() -> None:
    """`drain_s: 0` means no waiting, not even for handlers."""

    async def main() -> None:
        sio, begun = Server(), asyncio.Event()

        @sio.event
        async def hang(sid: str) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with aiohttp.ClientSession() as session:
            async with node_here(sio, drain_s=0.0) as url:
                websocket = await session.ws_connect(url + OPEN)
                await websocket.receive()
                await websocket.send_str("40")
                await websocket.receive()
                await websocket.send_str('42["hang"]')
                await begun.wait()
            assert (await websocket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

    asyncio.run(main())


def test_the_end_of_the_lifeline_stops_it_like_sigterm(tmp_path: Path) -> None:
    """Its supervisor was killed: nobody else would end it."""

    async def main() -> None:
        from tests.support.nodes import started

        lifeline, held = os.pipe()
        ready, said = os.pipe()
        process = await started(
            *("--port", "0", "--redis", "none", "--lifeline-fd", str(lifeline), "--ready-fd", str(said)),
            log=tmp_path / "log",
            pass_fds=(lifeline, said),
        )
        os.close(lifeline)
        os.close(said)
        assert await asyncio.to_thread(os.read, ready, 100) == b"ready\n"
        os.close(ready)
        assert process.returncode is None
        os.close(held)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert "the supervisor is gone" in (tmp_path / "log").read_text()

    asyncio.run(main())
