"""How WebSockets that were handed over end, as the balancer hears and tells of it: a real node, real connections."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import WSMsgType, web

from cluster import tcp_info
from lb.exchange import abort
from node.channel import Channel, ChannelLimits
from node.engine import Engine
from node.frames import TEXT, frame
from node.opening import take_over
from tests.lb.conftest import Run
from tests.support.access_lines import Lines
from tests.support.balancer import Balancer, Caller, balancer, upgrade_request
from tests.support.engine import Heard
from tests.support.handing import AdoptingNode, adopting_node, hands_over
from tests.support.waiting import eventually
from tests.support.websockets import close, text

LIMITS = ChannelLimits(slow_consumer_bytes=10_000, close_timeout_s=0.2)
PATHS = ("/channel", "/aiohttp")


@dataclass
class Obedient:
    """A channel's receiver that says back what it hears, or does what it is told."""

    channel: Channel
    moved: ClassVar[list[int]] = []
    """Descriptors of connections that went elsewhere."""

    def received(self, data: str | bytes) -> None:
        assert isinstance(data, str)
        order, _, value = data.partition(" ")
        if order == "close":
            self.channel.close(int(value))
        elif order == "move":
            self.moved.append(os.dup(self.channel.fileno()))
            self.channel.give_away()
        elif order == "flood":
            while self.channel.write(frame(TEXT, b"x" * 5000)):
                pass
        else:
            self.channel.write(frame(TEXT, data.encode()))

    def closed(self, code: int, reason: str) -> None:
        """Nothing is kept."""


async def through_a_channel(request: web.Request) -> web.StreamResponse:
    receiver = Obedient.__new__(Obedient)
    receiver.channel, response = take_over(request, receiver, LIMITS)
    return response


async def through_aiohttp(request: web.Request) -> web.StreamResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        assert message.type is WSMsgType.TEXT
        order, _, value = message.data.partition(" ")
        if order == "close":
            await websocket.close(code=int(value))
        else:
            await websocket.send_str(message.data)
    return websocket


async def forbidden(_: web.Request) -> web.Response:
    return web.Response(status=403, text="not you")


@dataclass
class Parts:
    """A balancer, its node, and the lines that the balancer writes."""

    lb: Balancer
    node: AdoptingNode
    lines: Lines

    async def opened(self, target: str) -> tuple[Caller, int]:
        """Return a client whose WebSocket is open, and how long the head of the 101 was."""
        caller = await self.lb.connect()
        caller.send(upgrade_request(target))
        return caller, len(await caller.head())

    async def closed(self) -> Mapping[str, Any]:
        """Return the last line of the only WebSocket."""
        await eventually(lambda: len(self.lines.lines) == 2, what="both lines")
        opened, line = self.lines.lines
        assert (opened["what"], line["what"]) == ("websocket opened", "websocket closed")
        assert line["trace"] == opened["trace"]
        return line

    @property
    def closes(self) -> dict[str, int]:
        return self.lb.metrics.totals.nodes["n0"].closes


@asynccontextmanager
async def parts(directory: Path, lines: Lines, **engine_options: Any) -> AsyncIterator[Parts]:
    app = web.Application()
    engine = Engine(**engine_options)
    engine.handler = Heard()
    engine.attach(app)
    app.add_routes(
        [web.get("/channel", through_a_channel), web.get("/aiohttp", through_aiohttp), web.get("/no", forbidden)]
    )
    async with adopting_node(directory, app=app) as node, balancer(node.port) as lb:
        hands_over(lb, node.path)
        try:
            yield Parts(lb, node, lines)
        finally:
            await engine.close_all(1)
            await engine.shutdown()


def told(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line.get("by"), line.get("code"), line.get("bytes_in"), line.get("bytes_out")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("code", [1000, 1001, 4000, None])
def test_a_client_that_closes_is_told_of_with_its_code_and_all_bytes(
    run: Run, tmp_path: Path, lines: Lines, path: str, code: int | None
) -> None:
    """1005 for a close frame without a code; bytes behind the request, and from the node's 101 on."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, head = await it.opened(path)
            said = text("hello") + close(code)
            caller.send(said)
            heard = await caller.rest()
            caller.close()
            line = await it.closed()
            assert told(line) == ("client", code or 1005, len(said), head + len(heard))
            assert it.closes == {str(code or 1005) if code != 4000 else "other": 1}

    run(main)


@pytest.mark.parametrize("path", PATHS)
def test_a_node_that_closes_is_told_of(run: Run, tmp_path: Path, lines: Lines, path: str) -> None:
    """With its code where the WebSocket is ours; aiohttp does not keep it."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, head = await it.opened(path)
            said = text("close 4401")
            caller.send(said)
            assert await caller.reader.readexactly(4) == b"\x88\x02\x11\x31"
            caller.send(close(4401))
            await caller.rest()
            caller.close()
            line = await it.closed()
            code = 4401 if path == "/channel" else None
            assert told(line) == ("node", code, len(said) + len(close(4401)), head + 4)
            assert it.closes == {"4401" if code else "unknown": 1}

    run(main)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", ["reset", "end of file"])
def test_a_client_that_says_no_word_is_lost(run: Run, tmp_path: Path, lines: Lines, path: str, how: str) -> None:
    """1006: killed, unplugged, a proxy that cut it; and its bytes are counted to the last."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, head = await it.opened(path)
            caller.send(text("hello"))
            await caller.reader.readexactly(7)
            if how == "reset":
                abort(caller.writer.transport)
            else:
                caller.writer.write_eof()
                await caller.rest()
            assert told(await it.closed()) == ("lost", 1006, len(text("hello")), head + 7)
            assert it.closes == {"1006": 1}

    run(main)


def test_a_client_that_is_too_slow_was_closed_by_its_node_with_4008(run: Run, tmp_path: Path, lines: Lines) -> None:
    """It may never read that."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, _ = await it.opened("/channel")
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
            caller.send(text("flood"))
            line = await it.closed()
            assert (line["by"], line["code"]) == ("node", 4008)
            assert it.closes == {"4008": 1}

    run(main)


def test_a_client_that_misses_its_heartbeat_is_lost(run: Run, tmp_path: Path, lines: Lines) -> None:
    """The node says goodbye, to nobody."""

    async def main() -> None:
        async with parts(tmp_path, lines, ping_interval=0.05, ping_timeout=0.05) as it:
            await it.opened("/engine.io/?EIO=4&transport=websocket")
            line = await it.closed()
            assert (line["by"], line["code"]) == ("lost", 1006)

    run(main)


def test_a_refused_upgrade_ends_by_its_node_without_a_code(run: Run, tmp_path: Path, lines: Lines) -> None:
    """It was handed over, and the node did not want it."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller = await it.lb.connect()
            caller.send(upgrade_request("/no"))
            heard = await caller.rest()
            caller.close()
            line = await it.closed()
            assert told(line) == ("node", None, 0, len(heard))

    run(main)


def test_requests_before_it_on_its_connection_are_not_the_websockets(run: Run, tmp_path: Path, lines: Lines) -> None:
    """Nor their answers; what comes in one piece with the upgrade is."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller = await it.lb.connect()
            for number in range(2):
                caller.send(b"GET /no HTTP/1.1\r\nHost: h\r\n\r\n")
                await caller.answer()
                await eventually(lambda number=number: len(lines.lines) == number + 1)  # type: ignore[misc]
            lines.lines.clear()
            early = text("early")
            caller.send(upgrade_request("/channel") + early[:4])
            head = len(await caller.head())
            caller.send(early[4:] + close(1000))
            heard = await caller.rest()
            caller.close()
            assert told(await it.closed()) == ("client", 1000, len(early + close(1000)), head + len(heard))

    run(main)


def test_where_the_kernel_does_not_count_there_are_no_bytes(
    run: Run, tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old one, or another system."""
    monkeypatch.setattr(tcp_info, "counted", lambda sock: None)

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, _ = await it.opened("/channel")
            caller.send(close(1000))
            await caller.rest()
            caller.close()
            assert told(await it.closed()) == ("client", 1000, None, None)

    run(main)


def test_a_node_that_dies_takes_its_websockets_along(run: Run, tmp_path: Path, lines: Lines) -> None:
    """Its link ends, and each gets its last line: lost, with no bytes, as nobody is left to tell."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, _ = await it.opened("/channel")
            it.node.adoption.close()
            line = await it.closed()
            assert told(line) == ("lost", 1006, None, None)
            assert it.closes == {"1006": 1}
            caller.send(close(1000))
            await caller.rest()

    run(main)


def test_what_this_worker_leaves_behind_has_not_ended(run: Run, tmp_path: Path, lines: Lines) -> None:
    """It goes on at its node: no line, and no close."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller, _ = await it.opened("/channel")
            await it.lb.front.stop(0)
            caller.send(text("still here"))
            assert await caller.reader.readexactly(12) == b"\x81\x0astill here"
            assert [line["what"] for line in lines.lines] == ["websocket opened"]
            assert it.closes == {}
            caller.send(close(1000))
            await caller.rest()

    run(main)


def test_the_last_line_of_what_a_worker_left_behind_is_its_nodes(run: Run, tmp_path: Path, lines: Lines) -> None:
    """The same as the worker's would be: nobody else knew how it began."""

    async def main() -> None:
        async with parts(tmp_path, lines) as it:
            caller = await it.lb.connect()
            early = text("early")
            caller.send(upgrade_request("/channel?sid=x") + early)
            head = len(await caller.head())
            await caller.reader.readexactly(7)
            await it.lb.front.stop(0)
            [link] = it.node.adoption._links
            await eventually(lambda: link.is_widowed)
            caller.send(close(4401))
            heard = await caller.rest()
            caller.close()
            line = await it.closed()
            assert told(line) == ("client", 4401, len(early + close(4401)), head + 7 + len(heard))
            opened = lines.lines[0]
            same = ("client", "method", "target", "trace", "node", "path")
            assert {name: line[name] for name in same} == {name: opened[name] for name in same}
            assert line["seconds"] >= 0

    run(main)


def test_a_websocket_that_moves_is_counted_no_more_and_has_not_ended(run: Run, tmp_path: Path, lines: Lines) -> None:
    """Another process has a copy of its connection, which stays open; no close code is counted."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with parts(tmp_path, lines) as it:
            caller, _ = await it.opened("/channel")
            caller.send(text("move"))
            await eventually(lambda: it.lb.node().handed_over == 0)
            line = await it.closed()
            assert (line["by"], line.get("code")) == ("moved", None)
            assert (it.node.adoption.count, it.closes) == (0, {})
            with socket.socket(fileno=Obedient.moved.pop()) as copy:
                copy.setblocking(False)
                await loop.sock_sendall(copy, b"from there")
                assert await caller.reader.readexactly(10) == b"from there"

    run(main)


def _plain(number: int) -> bytes:
    return b"C" + struct.pack("!Q", number)


def _of_the_future(number: int) -> bytes:
    facts = (1 << 63 | 1 << 56 | 1000 << 8 | 77, 1 << 63 | 99 << 56 | 5, 1 << 63 | 2 << 56 | 7)
    return b"C" + struct.pack("!4Q", number, *facts)


@pytest.mark.parametrize(("report", "expected"), [(_plain, (None, None)), (_of_the_future, (None, 1000))])
def test_a_node_of_another_version_is_understood(
    run: Run, tmp_path: Path, lines: Lines, report: Callable[[int], bytes], expected: tuple[Any, ...]
) -> None:
    """An older one tells no more than that it ended; a newer one tells more than we know: raw packets."""
    from cluster.handoff import Taken
    from tests.support.handing import bare_node

    async def main() -> None:
        async with bare_node(tmp_path / "n0.sock") as node, balancer(1) as lb:
            hands_over(lb, node.path)
            numbers: list[int] = []
            for _ in range(2):
                (await lb.connect()).send(upgrade_request("/ws"))
                link = node.links[0] if node.links else await node.link()
                numbers.append((await link.packet()).id)
                link.say(Taken(numbers[-1]))
            await eventually(lambda: len(lines.lines) == 2)
            link.sock.send(report(numbers[0]))
            line = await lines.line(3)
            assert (line.get("by"), line.get("code")) == expected
            assert lb.node().handed_over == 1, "the other one is still there, and so is the link"

    run(main)
