"""Emitters: processes that are no nodes reach clients and servers with a Redis URL and the cluster's name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UsageError
from node import Emitter, Server, SyncEmitter
from node.fate import Fate
from tests.support.nodes import ROOT, node_here
from tests.support.raw_socketio import RawClient, raw_client
from tests.support.redises import redis_cluster, watched_by_sentinels
from tests.support.valkey import SERVER, Valkey
from tests.support.waiting import eventually


@asynccontextmanager
async def clients(redis: str, count: int = 2, **options: Any) -> AsyncIterator[list[tuple[Server, RawClient, str]]]:
    """Run nodes, each with one client: its server, the client, its sid."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            sio = Server(namespaces="*", **options)
            url = await stack.enter_async_context(node_here(sio, redis=redis))
            client = await stack.enter_async_context(raw_client(url))
            found.append((sio, client, await client.connect()))
        yield found


async def _counts(emitter: Emitter, count: int) -> bool:
    return await emitter.server_count() == count


async def _acknowledging(client: RawClient, answer: str) -> None:
    packet = await client.hear()
    assert isinstance(packet, str)
    await client.say(f"3{packet[1:].partition('[')[0]}{answer}")


def test_events_arrive_at_clients_of_all_nodes(valkey: Valkey) -> None:
    """To everybody, a room, a sid, all but some; with bytes; in order."""

    async def main() -> None:
        async with clients(valkey.url) as [(one, ann, ann_sid), (_, bob, bob_sid)]:
            await one.enter_room(ann_sid, "red")
            async with Emitter(valkey.url) as emitter:
                assert await emitter.emit("all", {"n": 1}) is Fate.SENT
                await emitter.emit("red", to="red")
                await emitter.emit("bob", ("a", 2), room=bob_sid)
                await emitter.emit("not bob", skip_sid=bob_sid)
                await emitter.emit("not red", b"x", except_rooms="red", volatile=True)
                await emitter.emit("nobody", to=[])
                await emitter.emit("elsewhere", namespace="/other")
                await emitter.emit("both", to=["red", bob_sid])
            assert [await ann.hear() for _ in range(4)] == ['2["all",{"n":1}]', '2["red"]', '2["not bob"]', '2["both"]']
            assert [await bob.hear() for _ in range(5)] == [
                '2["all",{"n":1}]',
                '2["bob","a",2]',
                '51-["not red",{"_placeholder":true,"num":0}]',
                b"x",
                '2["both"]',
            ]

    asyncio.run(main())


def test_it_does_from_outside_what_a_server_does(valkey: Valkey) -> None:
    """Find, move, ask and disconnect clients, and talk to servers, who all count."""

    async def main() -> None:
        async with clients(valkey.url) as [(one, _, ann_sid), (two, bob, bob_sid)], Emitter(valkey.url) as emitter:
            await eventually(partial(_counts, emitter, 2))
            assert {each.sid for each in await emitter.fetch_sockets()} == {ann_sid, bob_sid}
            assert (await emitter.sockets_join("red", bob_sid)).clients == 1
            assert [each.sid for each in await emitter.fetch_sockets("red")] == [bob_sid]
            assert (await emitter.sockets_leave("red")).clients == 2
            asking = asyncio.ensure_future(emitter.call("q", to=bob_sid))
            await _acknowledging(bob, "[[1]]")
            assert await asking == [1]
            one.on_server_side("add", lambda a, b: a + b)
            two.on_server_side("add", lambda a, b: [a, b])
            replies = await emitter.server_side_call("add", 1, 2)
            assert replies.given == {one.node.name: 3, two.node.name: [1, 2]}
            assert await emitter.server_side_emit("add", 1, 2) is Fate.SENT
            assert (await emitter.disconnect_sockets(bob_sid)).clients == 1
            async with asyncio.timeout(30):
                with pytest.raises(TimeoutError, match="no answer to 'q'"):
                    await emitter.call("q", to=bob_sid)
            assert [each.sid for each in await emitter.fetch_sockets()] == [ann_sid]

    asyncio.run(main())


def test_the_servers_format_is_an_option(valkey: Valkey) -> None:
    """As the servers have it."""

    async def main() -> None:
        async with clients(valkey.url, 1) as [(_, ann, _)]:
            async with Emitter(valkey.url, serializer="msgpack") as emitter:
                await emitter.emit("x")
            heard = await ann.hear()
            assert isinstance(heard, bytes), "msgpack's packets are binary"

    asyncio.run(main())


@pytest.mark.parametrize("topology", [watched_by_sentinels, redis_cluster])
def test_every_topology_will_do(topology: Callable[[], Any]) -> None:
    """Sentinels, and a Redis Cluster."""

    async def main() -> None:
        async with topology() as servers, clients(servers.url) as [(_, ann, ann_sid), (_, bob, bob_sid)]:
            async with Emitter(servers.url) as emitter:
                await emitter.emit("x", 1)
                await emitter.emit("y", to=bob_sid)
                assert (await emitter.sockets_join("red")).clients == 2
                assert {each.sid for each in await emitter.fetch_sockets("red")} == {ann_sid, bob_sid}
            assert await ann.hear() == '2["x",1]'
            assert {await bob.hear(), await bob.hear()} == {'2["x",1]', '2["y"]'}

    asyncio.run(main())


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    """As of the embedded Redis, for workers on its host."""
    path = tmp_path / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(str(SERVER), *options, stdout=subprocess.DEVNULL)
        try:
            await eventually(path.exists)
            async with clients(f"unix://{path}", 1) as [(_, ann, ann_sid)]:
                async with Emitter(f"unix://{path}") as emitter:
                    await emitter.emit("x", to=ann_sid)
                assert await ann.hear() == '2["x"]'
        finally:
            process.kill()
            await process.wait()

    asyncio.run(main())


@pytest.mark.parametrize("what", ["process", "fork"])
def test_a_worker_needs_no_event_loop_and_no_web_server(valkey: Valkey, what: str) -> None:
    """Nothing to close at its end; what was emitted last arrives; and a fork of it emits, too."""

    async def main() -> None:
        async with clients(valkey.url, 1) as [(_, ann, _)]:
            arguments = ["-W", "ignore::DeprecationWarning", "-m", "tests.support.emitting", valkey.url, what]
            process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT)
            said = ["before", "after"] if what == "process" else ["before", "child", "after"]
            assert [await ann.hear(20) for _ in said] == [f'2["said","{what} {each}"]' for each in said]
            assert await process.wait() == 0

    asyncio.run(main())


def test_the_synchronous_one_does_the_same(valkey: Valkey) -> None:
    """Results and errors come back to the caller; after `close` it begins anew."""

    def worker(sid: str) -> None:
        with SyncEmitter(valkey.url) as emitter:
            assert emitter.emit("x", 1) is Fate.SENT
            assert [each.sid for each in emitter.fetch_sockets()] == [sid]
            with pytest.raises(TypeError):
                emitter.emit("x", object())
        emitter.emit("y")
        emitter.close()
        emitter.close()

    async def main() -> None:
        async with clients(valkey.url, 1) as [(_, ann, sid)]:
            await asyncio.to_thread(worker, sid)
            assert [await ann.hear(), await ann.hear()] == ['2["x",1]', '2["y"]']

    asyncio.run(main())


def test_what_is_emitted_while_redis_is_away_waits(valkey: Valkey) -> None:
    """And leaves before the end; volatile events do not wait; questions are answered at once: with nothing."""

    async def main() -> None:
        async with clients(valkey.url, 1) as [(sio, ann, _)], Emitter(valkey.url) as emitter:
            await eventually(partial(_counts, emitter, 1))
            valkey.kill()
            await eventually(lambda: not emitter.is_connected)
            assert await emitter.emit("volatile", volatile=True) is Fate.DROPPED
            for number in range(10):
                assert await emitter.emit("x", number) is Fate.WAITING
            found = await emitter.fetch_sockets()
            assert (found, found.missing) == ([], (sio.node.name,))
            assert await emitter.server_count() == 1, "as last known"
            valkey.start()
            assert [await ann.hear(10) for _ in range(10)] == [f'2["x",{number}]' for number in range(10)]

    asyncio.run(main())


def test_without_redis_it_ends_nevertheless(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it has left behind."""
    monkeypatch.setattr("node.emitter.UP_S", 0.05)
    monkeypatch.setattr("node.emitter.LEAVE_S", 0.1)
    valkey.kill()

    async def main() -> None:
        async with Emitter(valkey.url) as emitter:
            assert await emitter.emit("x") is Fate.WAITING

    asyncio.run(main())
    assert "emitting later" in caplog.text
    assert "messages left behind" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("none",), "give the URL of the nodes' Redis, not 'none'"),
        (("localhost",), "redis: must be embedded, none or a URL"),
        (("redis://h", "No Name"), "cluster: String should match pattern"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], reason: str) -> None:
    """In one line."""
    with pytest.raises(UsageError, match=f"Emitter: .*{reason}"):
        Emitter(*arguments)


def test_it_must_be_open() -> None:
    """It says how."""

    async def main() -> None:
        with pytest.raises(UsageError, match="not open: use it in `async with"):
            await Emitter("redis://localhost").emit("x")

    asyncio.run(main())


def test_certificates_that_cannot_be_read_are_named() -> None:
    """The password is not."""

    async def main() -> None:
        with pytest.raises(UsageError, match=r"certificates of rediss://u:\*\*\*@h.* cannot be read"):
            async with Emitter("rediss://u:p@h?ssl_ca_certs=/not/there"):
                pass

    asyncio.run(main())
