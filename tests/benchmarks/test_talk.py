"""The talkers tell lost, doubled, overtaken and changed messages apart; newcomers tell how they were turned away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from benchmarks import arrive, talk
from benchmarks.arrive import Arrivals
from benchmarks.client import upgrade_request
from benchmarks.echo import Echo
from benchmarks.frames import read_frame, server_frame
from benchmarks.talk import Talker, Tally
from tests.support.ports import free_port
from tests.support.waiting import eventually

REQUEST = upgrade_request("/")


class Listener(asyncio.Protocol):
    """A server that agrees to the upgrade and keeps the messages."""

    def __init__(self, heard: list[bytes]) -> None:
        self.heard = heard
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            return
        self.pending += data
        while (frame := read_frame(self.pending)) is not None:
            self.pending = self.pending[frame.size :]
            self.heard.append(frame.payload)


def answered(answer: Callable[[list[bytes]], Sequence[bytes]], messages: int = 4) -> tuple[Tally, Talker]:
    """Let one talker say its messages, and a server what `answer` makes of all of them."""

    async def main() -> tuple[Tally, Talker]:
        loop, tally, heard = asyncio.get_running_loop(), Tally(), list[bytes]()
        listeners: list[Listener] = []

        def listener() -> Listener:
            listeners.append(Listener(heard))
            return listeners[-1]

        async with await loop.create_server(listener, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            transport, talker = await loop.create_connection(lambda: Talker(7, tally, REQUEST), "127.0.0.1", port)
            await talker.opened
            for _ in range(messages):
                talker.send()
            await eventually(lambda: len(heard) == messages)
            for payload in answer(heard):
                listeners[0].transport.write(server_frame(0x82, payload))
            listeners[0].transport.close()
            await eventually(lambda: talker.is_closed)
            transport.abort()
        return tally, talker

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "lost", "doubled", "overtaken", "changed"),
    [
        pytest.param(lambda heard: heard, 0, 0, 0, 0, id="faithful"),
        pytest.param(lambda heard: heard[:2], 2, 0, 0, 0, id="the last two are lost"),
        pytest.param(lambda heard: [heard[0], *heard[2:]], 1, 0, 0, 0, id="one in the middle is lost"),
        pytest.param(lambda heard: [*heard, heard[1]], 0, 1, 0, 0, id="one comes twice"),
        pytest.param(lambda heard: [heard[0], heard[2], heard[1], heard[3]], 0, 0, 1, 0, id="one overtakes"),
        pytest.param(lambda heard: [bytes(4) + heard[0][4:]], 4, 0, 0, 1, id="another connection's"),
        pytest.param(lambda heard: [heard[0][:4] + b"\0\0\0\x63" + heard[0][8:]], 4, 0, 0, 1, id="never sent"),
        pytest.param(lambda heard: [heard[0] + b"x"], 4, 0, 0, 1, id="longer"),
    ],
)
def test_a_talker_tells_faults_apart(
    answer: Callable[[list[bytes]], Sequence[bytes]], lost: int, doubled: int, overtaken: int, changed: int
) -> None:
    """Each of four messages is known by its number."""
    tally, talker = answered(answer)
    assert (talker.lost, tally.duplicated, tally.reordered, tally.changed) == (lost, doubled, overtaken, changed)


def test_a_talker_that_is_closed_says_no_more() -> None:
    """What it did not send cannot be lost."""
    _, talker = answered(lambda heard: heard)
    talker.send()
    assert (talker.sent, talker.lost) == (4, 0)


def arriving(port: int, how_many: int = 3) -> Arrivals:
    """Let some come, one after the other in a short time."""

    async def main() -> Arrivals:
        async with asyncio.TaskGroup() as group:
            arrivals = Arrivals(port, REQUEST, group)
            job = group.create_task(arrivals.run(200))
            await eventually(lambda: arrivals.count >= how_many)
            job.cancel()
        return arrivals

    return asyncio.run(main())


async def _served(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> Arrivals:
    async def talk_to(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        serve(reader, writer)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(talk_to, "127.0.0.1", 0) as server:
        async with asyncio.TaskGroup() as group:
            arrivals = Arrivals(server.sockets[0].getsockname()[1], REQUEST, group)
            job = group.create_task(arrivals.run(200))
            await eventually(lambda: arrivals.count >= 3)
            job.cancel()
        return arrivals


def test_newcomers_that_are_served_say_how_long_they_waited() -> None:
    """And nothing else is counted."""

    async def main() -> Arrivals:
        async with await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0) as server:
            async with asyncio.TaskGroup() as group:
                arrivals = Arrivals(server.sockets[0].getsockname()[1], REQUEST, group)
                job = group.create_task(arrivals.run(200))
                await eventually(lambda: arrivals.count >= 3)
                job.cancel()
            return arrivals

    arrivals = asyncio.run(main())
    assert len(arrivals.waits_s) == arrivals.count
    assert arrivals.reasons == []


def test_newcomers_that_nobody_listens_to_are_refused() -> None:
    """ECONNREFUSED is what must never happen."""
    arrivals = arriving(free_port())
    assert arrivals.refused == arrivals.count


AGREED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "counted", "reason"),
    [
        (b"", "cut", "closed after b''"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "rejected", "answered with 503"),
        (AGREED, "broken", "lost after its 101"),
        (AGREED + server_frame(0x82, b"hullo"), "broken", "instead of its echo"),
    ],
)
def test_newcomers_tell_how_they_were_turned_away(said: bytes, counted: str, reason: str) -> None:
    """Cut before an answer, answered with another status, lost after the 101, or told something else."""

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.write_eof()

    arrivals = asyncio.run(_served(serve))
    assert getattr(arrivals, counted) == arrivals.count
    assert reason in arrivals.reasons[0]
    assert len(arrivals.reasons) <= arrive.MOST_REASONS


def test_newcomers_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A balancer that accepts and says nothing."""
    monkeypatch.setattr(arrive, "ARRIVAL_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        arrivals = arriving(silent.getsockname()[1])
    assert arrivals.timed_out == arrivals.count


def test_talkers_that_cannot_open_are_one_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the port, and status 2."""
    port = free_port()
    assert talk.main(["--port", str(port), "--connections", "5"]) == 2
    assert capsys.readouterr().err.startswith(f"not all 5 connections to port {port} could be opened: ")
