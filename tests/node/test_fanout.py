"""Messages between nodes: they cross, survive outages of Redis, and never hold up local clients."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis
import socketio

from cluster.redis_link import connection
from node import Server
from node import fanout as fanout_module
from node.fanout import Fanout
from node.message import Message
from node.peer import Peer
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

CHANNEL = "{test}:socketio"


class Ear:
    """Stands in for the session of one client, and keeps what it gets."""

    def __init__(self) -> None:
        self.sid = "ear"
        self.client: Peer | None = None
        self.heard: list[Any] = []

    def send(self, message: Message, *, volatile: bool = False) -> bool:
        assert message.text is not None
        self.heard.append([json.loads(message.text[message.text.index(b"[") :]), *message.binaries])
        return True


class Recorder(Fanout):
    """A fanout with one client, in the room "here" too."""

    def __init__(self, url: str, publisher: redis.Redis) -> None:
        super().__init__(url, publisher, CHANNEL)
        Server(client_manager=self)
        self.ear = Ear()
        client = self.directory.add(self.ear, f"sid-{id(self)}", "/")
        self.directory.enter(client, "here")

    @property
    def delivered(self) -> list[Any]:
        """The first argument of each event."""
        return [event[1] if len(event) > 1 else None for event, *_ in self.ear.heard]

    def forget(self) -> None:
        self.ear.heard.clear()


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Recorder]:
    async with connection(url) as publisher:
        fanout = Recorder(url, publisher)
        task = asyncio.ensure_future(fanout.run())
        try:
            yield fanout
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def crosses(one: Fanout, two: Recorder) -> bool:
    await one.emit("x", "probe")
    await eventually(lambda: "probe" in two.delivered, within_s=0.3)
    return True


def test_a_message_reaches_its_own_node_once_and_every_other_once(valkey: Valkey) -> None:
    """Its own without Redis, and not a second time when it comes back on the channel."""

    async def main() -> None:
        async with listening(valkey.url) as one, listening(valkey.url) as two:
            await eventually(lambda: crosses(one, two))
            one.forget()
            two.forget()
            for number in range(50):
                await one.emit("x", number)
            await two.emit("x", "last")
            await eventually(lambda: "last" in one.delivered and 49 in two.delivered)
            assert one.delivered == [*range(50), "last"]
            assert [data for data in two.delivered if data != "last"] == [*range(50)]

    asyncio.run(main())


def test_every_option_of_emit_crosses_with_it(valkey: Valkey) -> None:
    """Rooms, exceptions, bytes, several arguments and none."""

    async def main() -> None:
        async with listening(valkey.url) as one, listening(valkey.url) as two:
            await eventually(lambda: crosses(one, two))
            two.forget()
            [sid_of_two] = two.directory.spaces["/"].clients
            [sid_of_one] = one.directory.spaces["/"].clients
            await one.emit("x", "not for the other", except_rooms="here")
            await one.emit("x", "skipped", skip_sid=[sid_of_two])
            await one.emit("x", "elsewhere", room=["there"])
            await one.emit("x", "ours alone", ignore_queue=True)
            await one.emit("x", "for one of ours", to=sid_of_one)
            await one.emit("x", {"b": b"bytes"}, room="here", volatile=True)
            await one.emit("x", ("several", 2), room=["here", "there"])
            await one.emit("x", None, to=sid_of_two)
            await one.emit("x", "last")
            await eventually(lambda: "last" in two.delivered)
            assert two.ear.heard == [
                [["x", {"b": {"_placeholder": True, "num": 0}}], b"bytes"],
                [["x", "several", 2]],
                [["x"]],
                [["x", "last"]],
            ]

    asyncio.run(main())


def test_an_acknowledgement_finds_the_node_that_asked(valkey: Valkey) -> None:
    """The client is on the other node; the callback is called here."""

    async def main() -> None:
        async with listening(valkey.url) as one, listening(valkey.url) as two:
            await eventually(lambda: crosses(one, two))
            [sid] = two.directory.spaces["/"].clients
            answers: list[Any] = []
            await one.emit("x", "question", to=sid, callback=lambda *answer: answers.append(answer))
            await eventually(lambda: "question" in two.delivered)
            await two.trigger_callback(sid, 1, ["yes", 2])
            await eventually(lambda: answers)
            assert answers == [("yes", 2)]

    asyncio.run(main())


def test_an_outside_emitter_of_python_socketio_is_heard(valkey: Valkey) -> None:
    """What is on the channel is its own format."""

    async def main() -> None:
        async with listening(valkey.url) as one:
            outside = socketio.AsyncRedisManager(valkey.url, channel=CHANNEL, write_only=True)

            async def emitted() -> bool:
                await outside.emit("x", "from outside")
                return "from outside" in one.delivered

            await eventually(emitted)
            await outside.redis.aclose()

    asyncio.run(main())


def test_it_works_over_a_unix_socket(valkey: Valkey) -> None:
    """The embedded Redis has nothing else."""

    async def main() -> None:
        path = valkey.directory / "v.sock"
        valkey.kill()
        valkey.start("--unixsocket", str(path))
        async with listening(f"unix://{path}") as one, listening(f"unix://{path}") as two:
            await eventually(lambda: crosses(one, two))

    asyncio.run(main())


def test_messages_cross_again_within_seconds_after_an_outage(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is away local clients get everything, what others miss is counted, and one line tells of it."""

    async def main() -> None:
        async with listening(valkey.url) as one, listening(valkey.url) as two:
            await eventually(lambda: crosses(one, two))
            valkey.kill()
            one.forget()
            for number in range(10):
                await one.emit("x", number)
            assert one.delivered == [*range(10)]
            assert one.dropped == 10
            valkey.start()
            two.forget()
            await eventually(lambda: crosses(one, two), within_s=5)

    asyncio.run(main())
    lost = [record for record in caplog.records if record.getMessage().startswith("bus lost")]
    assert len(lost) == 2, "one line for each of the two"


def test_publishing_resumes_as_soon_as_redis_answers(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how many messages the other nodes have missed."""
    caplog.set_level("INFO")

    async def main() -> None:
        async with listening(valkey.url) as one:
            valkey.kill()
            await one.emit("x", 1)
            await one.emit("x", 2)
            valkey.start()
            await eventually(lambda: "bus is back" in caplog.messages)

    asyncio.run(main())
    [back] = [record for record in caplog.records if record.getMessage() == "bus is back"]
    assert back.__dict__["dropped"] == 2


def test_a_redis_that_is_away_at_the_start_is_found_later(valkey: Valkey) -> None:
    """The listener does not give up."""

    async def main() -> None:
        valkey.kill()
        async with listening(valkey.url) as one, listening(valkey.url) as two:
            await one.emit("x", "nobody hears this")
            valkey.start()
            await eventually(lambda: crosses(one, two), within_s=5)

    asyncio.run(main())


def test_a_redis_that_hangs_delays_one_emit_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one time-out nothing is published until Redis answers; emits go on at the speed of their own node."""

    async def main() -> None:
        monkeypatch.setattr("cluster.redis_link.COMMAND_TIMEOUT_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            async with listening(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0") as fanout:
                loop = asyncio.get_running_loop()
                began = loop.time()
                for number in range(100):
                    await fanout.emit("x", number)
                assert loop.time() - began < 1
                assert fanout.delivered == [*range(100)]
                assert fanout.dropped == 100

    asyncio.run(main())


def test_a_connection_that_went_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, valkey: Valkey) -> None:
    """A host that vanished sends no reset; a subscription without a sign of life is made anew."""

    async def main() -> None:
        monkeypatch.setattr(fanout_module, "QUIET_S", 0.1)
        accepted: list[asyncio.StreamWriter] = []

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            # Confirms whatever it is told, as Redis does, and is never heard again.
            while len(accepted) == 1 and await reader.read(65536):
                writer.write(b"+OK\r\n+OK\r\n")
                await writer.drain()

        port = free_port()
        server = await asyncio.start_server(swallow, "127.0.0.1", port)
        async with listening(f"redis://127.0.0.1:{port}/0?protocol=2"):
            await eventually(lambda: len(accepted) >= 2, within_s=5, what="it connected again")
        server.close()
        for writer in accepted:
            writer.close()

    asyncio.run(main())


def test_python_socketio_starts_no_listener_of_its_own() -> None:
    """It would with the first client, as a task that nobody owns."""

    async def main() -> None:
        async with connection("redis://127.0.0.1:1/0") as publisher:
            fanout = Recorder("redis://127.0.0.1:1/0", publisher)
            before = asyncio.all_tasks()
            fanout.initialize()
            assert asyncio.all_tasks() == before

    asyncio.run(main())
