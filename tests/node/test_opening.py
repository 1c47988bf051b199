"""How a WebSocket opens, and that nothing of aiohttp stays behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from cluster.ends import By
from cluster.handoff import Handoff
from node.arrival import Adopted
from node.channel import Channel, ChannelLimits
from node.farewell import Fate
from node.opening import BadOpening, answer, checked_key, open_raw, take_over
from tests.lb.conftest import Run
from tests.support.balancer import Caller, upgrade_request
from tests.support.waiting import eventually
from tests.support.websockets import Listener, connected_pair, frames_in, text

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of that key: RFC 6455 1.3

GOOD = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Place:
    """A server with a WebSocket endpoint at /ws, and what happened there."""

    def __init__(self, limits: ChannelLimits, headers: tuple[tuple[str, str], ...]) -> None:
        self.listeners: list[Listener] = []
        self.channels: list[Channel] = []
        self.port = self.asked = 0
        self._limits, self._headers = limits, headers

    async def open(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        if "late" in request.query:
            await eventually(lambda: request.transport is None)
        listener = Listener()
        channel, response = take_over(request, listener, self._limits, self._headers)
        self.listeners.append(listener)
        self.channels.append(channel)
        channel.write(b"\x82\x02hi")
        return response


@asynccontextmanager
async def place(*headers: tuple[str, str], compression: bool = False) -> AsyncIterator[Place]:
    """Serve a Place on a free port."""
    there = Place(ChannelLimits(compression=compression), headers)
    app = web.Application()
    app.router.add_route("*", "/ws", there.open)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        there.port = runner.addresses[0][1]
        yield there
    finally:
        for channel in there.channels:
            channel.abort()
        await eventually(lambda: all(listener.ends for listener in there.listeners))
        await runner.cleanup()


async def called(there: Place) -> Caller:
    return Caller(*await asyncio.open_connection("127.0.0.1", there.port))


@pytest.mark.parametrize("early", [b"", text("early"), text("early") + text("x" * 5000)[:3000], text("early") * 30_000])
def test_a_request_becomes_a_channel(run: Run, early: bytes) -> None:
    """With the headers that were asked for, what came right behind the request, and what was written at once."""

    async def main() -> None:
        async with place(("X-More", "yes"), ("Set-Cookie", "a=b")) as there:
            caller = await called(there)
            caller.send(upgrade_request() + early)
            head = (await caller.head()).decode()
            assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
            for line in ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {ACCEPT}", "X-More: yes"):
                assert f"\r\n{line}\r\n" in head
            assert "Sec-WebSocket-Extensions" not in head
            assert await caller.reader.readexactly(4) == b"\x82\x02hi"
            count = 30_000 if len(early) > 10_000 else 1 if early else 0
            await eventually(lambda: there.listeners[0].messages == ["early"] * count)
            if early.endswith(b"x"):
                caller.send(text("x" * 5000)[3000:])
                await eventually(lambda: there.listeners[0].messages[1:] == ["x" * 5000])
            caller.close()
            await eventually(lambda: there.listeners[0].ends == [(1006, "")])

    run(main)


def test_the_answer_and_what_is_written_at_once_are_one_segment(run: Run) -> None:
    """One system call for both."""

    async def main() -> None:
        async with place() as there:
            caller = await called(there)
            caller.send(upgrade_request())
            data = await caller.reader.read(65536)
            assert data.endswith(b"\r\n\r\n\x82\x02hi")
            caller.close()

    run(main)


def test_nothing_of_aiohttp_is_left_of_an_open_connection(run: Run) -> None:
    """No request handler, no request, no task: they would be most of its memory."""

    async def main() -> None:
        async with place() as there:
            tasks = len(asyncio.all_tasks())
            callers = [await called(there) for _ in range(5)]
            for caller in callers:
                caller.send(upgrade_request())
                await caller.head()
            await asyncio.sleep(0)
            gc.collect()
            kept = [each for each in gc.get_objects() if isinstance(each, RequestHandler | web.BaseRequest)]
            assert kept == []
            assert len(asyncio.all_tasks()) == tasks
            for caller in callers:
                caller.close()

    run(main)


def test_a_client_that_went_meanwhile_is_closed_as_lost(run: Run) -> None:
    """Its receiver hears of it like any other, and nothing is logged."""

    async def main() -> None:
        async with place() as there:
            caller = await called(there)
            caller.send(upgrade_request("/ws?late"))
            await eventually(lambda: there.asked)
            caller.close()
            await eventually(lambda: [listener.ends for listener in there.listeners] == [[(1006, "")]])
            assert not there.channels[0].write(b"\x82\x00")

    run(main)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Upgrade": "h2c"}, 426),
        ({"Upgrade": ""}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "*" * 24}, 400),
        ({"Sec-WebSocket-Key": KEY[:-2] + "é="}, 400),
        ({"Content-Length": "3"}, 400),
    ],
)
def test_a_request_that_opens_no_websocket_is_answered_so(run: Run, changed: dict[str, str], status: int) -> None:
    """RFC 6455 4.2.1 and 4.4; the connection serves the next request."""

    async def main() -> None:
        async with place() as there:
            caller = await called(there)
            headers = GOOD | changed
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            body = b"abc" if "Content-Length" in changed else b""
            caller.send(b"GET /ws HTTP/1.1\r\nHost: h\r\n" + lines.encode() + b"\r\n" + body)
            head, text_of_it = await caller.answer()
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert len(text_of_it) > 10
            if "Sec-WebSocket-Version" in changed:
                assert b"\r\nSec-WebSocket-Version: 13\r\n" in head
            caller.send(upgrade_request())
            assert b" 101 " in await caller.head()
            caller.close()

    run(main)


@pytest.mark.parametrize("line", [b"POST /ws HTTP/1.1", b"GET /ws HTTP/1.0"])
def test_only_get_by_http_1_1_opens_a_websocket(run: Run, line: bytes) -> None:
    """RFC 6455 4.2.1."""

    async def main() -> None:
        async with place() as there:
            caller = await called(there)
            caller.send(upgrade_request().replace(b"GET /ws HTTP/1.1", line))
            assert b" 400 " in await caller.head()
            caller.close()

    run(main)


def test_headers_may_come_in_several_lines_and_any_case() -> None:
    """RFC 9110 5.3."""
    headers = CIMultiDict(GOOD | {"Connection": "keep-alive", "UPGRADE": "h2c, WebSocket"})
    headers.add("connection", "TE, UPGRADE")
    assert checked_key(headers) == KEY
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode() in answer(KEY)


def test_compression_is_agreed_on_where_it_is_allowed(run: Run) -> None:
    """And only with a client that offers it."""

    async def main() -> None:
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=10"}
        for compression, headers, bits in ((True, offer, 10), (True, {}, 0), (False, offer, 0)):
            async with place(compression=compression) as there:
                caller = await called(there)
                caller.send(upgrade_request(**{name.replace("-", "_"): value for name, value in headers.items()}))
                head = await caller.head()
                assert (b"\r\nSec-WebSocket-Extensions: permessage-deflate; " in head) is bool(bits)
                assert there.channels[0].deflates == bits
                caller.close()

    run(main)


def test_a_connection_that_was_handed_over_may_become_a_channel(run: Run) -> None:
    """Its sticky cookie is in the answer; that it ended is told when it has, not when aiohttp lets go of it."""

    async def main() -> None:
        loop, ends = asyncio.get_running_loop(), list[Fate]()
        there = Place(ChannelLimits(), ())

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await there.open(request)

        server = web.Server(handler)
        sock, client = await connected_pair()
        given = Handoff(1, 0, "n=1", upgrade_request() + text("early"))
        await loop.connect_accepted_socket(lambda: Adopted(server, given, ends.append), sock)
        assert b"\r\nSet-Cookie: n=1\r\n" in await loop.sock_recv(client, 65536)
        await eventually(lambda: there.listeners[0].messages == ["early"])
        assert ends == []
        client.close()
        await eventually(lambda: [end.by for end in ends] == [By.LOST])
        assert there.listeners[0].ends == [(1006, "")]
        await server.shutdown(0.1)

    run(main)


def test_a_connection_that_aiohttp_never_had_is_opened_too(run: Run) -> None:
    """Or is still the caller's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock, client = await connected_pair()
        listener, ends = Listener(), list[Fate]()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
        with pytest.raises(BadOpening):
            open_raw(transport, CIMultiDict(), b"", listener, ChannelLimits())
        early = text("early")
        channel = open_raw(transport, CIMultiDict(GOOD), early, listener, ChannelLimits(), on_end=ends.append)
        channel.write(b"\x82\x00")
        assert listener.messages == [], "not before the caller goes on"
        head, _, rest = (await loop.sock_recv(client, 65536)).partition(b"\r\n\r\n")
        assert ACCEPT.encode() in head
        assert len(frames_in(rest)[0]) == 1
        assert listener.messages == ["early"]
        client.close()
        await eventually(lambda: (listener.ends, [end.by for end in ends]) == ([(1006, "")], [By.LOST]))

    run(main)


def test_a_real_client_is_served(run: Run) -> None:
    """aiohttp's, with both kinds of messages and compression."""

    async def main() -> None:
        async with place(compression=True) as there, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{there.port}/ws"
            async with session.ws_connect(url, compress=15) as socket:
                assert await socket.receive_bytes() == b"hi"
                await socket.send_str("é" * 3000)
                await socket.send_bytes(b"\x00" * 70_000)
                await eventually(lambda: there.listeners[0].messages == ["é" * 3000, b"\x00" * 70_000])
                there.channels[0].close(4321, "enough")
                assert (await socket.receive()).data == 4321
            await eventually(lambda: there.listeners[0].ends == [(4321, "enough")])

    run(main)
