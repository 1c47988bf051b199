"""Engine.IO protocol 4 over a WebSocket: "Message", "Packet encoding", the end; and "Upgrade" from polling to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.support.engine import polled_session
from tests.support.waiting import eventually

PATH = "/socket.io/?EIO=4&transport="
CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


@asynccontextmanager
async def socket_at(url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}{PATH}websocket") as socket:
        await socket.receive_str()
        yield socket


async def is_closed(socket: aiohttp.ClientWebSocketResponse) -> bool:
    async with asyncio.timeout(30):
        return (await socket.receive()).type in CLOSED


@pytest.mark.parametrize("text", ["hello", "", "€ и 한 \U0001f600", "4", "x" * 900_000, "a\x1eb"])
def test_text_travels_in_a_frame_of_its_own_behind_its_type(calm_url: str, text: str) -> None:
    """Both ways."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_str("4" + text)
            assert await socket.receive_str() == "4" + text

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"\1\2\3\4", b"", bytes(256) * 1000])
def test_binary_data_travels_as_it_is(calm_url: str, data: bytes) -> None:
    """In a binary frame, without a type."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_bytes(data)
            assert await socket.receive_bytes() == data

    asyncio.run(main())


@pytest.mark.parametrize("packet", ["abc", "", "7", "b!", "0{}", "2", "2probe", "9" * 1000])
def test_what_is_no_packet_of_a_clients_ends_the_session(calm_url: str, packet: str) -> None:
    """And what was sent before it is answered."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_str("4before")
            await socket.send_str(packet)
            assert await socket.receive_str() == "4before"
            assert await is_closed(socket)

    asyncio.run(main())


@pytest.mark.parametrize("packet", ["3", "5", "6"])
def test_what_may_come_late_is_ignored(calm_url: str, packet: str) -> None:
    """Pong, upgrade, noop."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_str(packet)
            await socket.send_str("4after")
            assert await socket.receive_str() == "4after"

    asyncio.run(main())


def test_a_client_says_goodbye(calm_url: str) -> None:
    """Its WebSocket is closed."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_str("1")
            assert await is_closed(socket)
            assert socket.close_code == aiohttp.WSCloseCode.OK

    asyncio.run(main())


def test_a_message_over_maxpayload_ends_the_session(calm_url: str) -> None:
    """RFC 6455 7.4.1: 1009."""

    async def main() -> None:
        async with socket_at(calm_url) as socket:
            await socket.send_str("4" + "x" * 1_000_000)
            assert await is_closed(socket)
            assert socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    asyncio.run(main())


# --- Upgrade


class Upgrading:
    """A polling session, and a WebSocket for it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, address: str) -> None:
        self.http = http
        self.address = address
        self._websocket_url = address.replace("transport=polling", "transport=websocket")

    async def websocket(self) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(self._websocket_url)

    async def poll(self) -> tuple[int, str]:
        async with self.http.get(self.address) as answer:
            return answer.status, await answer.text()

    async def post(self, body: str) -> int:
        async with self.http.post(self.address, data=body) as answer:
            return answer.status

    async def upgraded(self) -> aiohttp.ClientWebSocketResponse:
        socket = await self.websocket()
        await socket.send_str("2probe")
        assert await socket.receive_str() == "3probe"
        await socket.send_str("5")
        return socket


@asynccontextmanager
async def upgrading(url: str) -> AsyncIterator[Upgrading]:
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        yield Upgrading(http, url, await polled_session(http, url, PATH))


def test_a_session_changes_over_to_a_websocket(calm_url: str) -> None:
    """Probe, pong, noop to the poll that waits, upgrade; from then on messages go over the WebSocket."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            poll = asyncio.ensure_future(client.poll())
            await asyncio.wait([poll], timeout=0.2)
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert await poll == (200, "6")
            assert await client.poll() == (200, "6"), "one that comes later is answered as well"
            await socket.send_str("5")
            await socket.send_str("4hello")
            assert await socket.receive_str() == "4hello"
            await socket.send_bytes(b"\1")
            assert await socket.receive_bytes() == b"\1"

    asyncio.run(main())


def test_what_waited_for_a_poll_comes_first_over_the_websocket(calm_url: str) -> None:
    """No packet is lost, none overtakes another."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert await client.post("4one\x1ebAQ==\x1e4two") == 200
            await socket.send_str("5")
            await socket.send_str("4three")
            assert await socket.receive_str() == "4one"
            assert await socket.receive_bytes() == b"\1"
            assert [await socket.receive_str() for _ in range(2)] == ["4two", "4three"]

    asyncio.run(main())


def test_messages_reach_polls_while_a_websocket_is_tried(calm_url: str) -> None:
    """Until the client says that it has changed over."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            assert await client.post("4one") == 200
            assert await client.poll() == (200, "4one")
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert await client.post("4two") == 200
            assert await client.poll() == (200, "4two")

    asyncio.run(main())


def test_after_the_upgrade_polls_and_posts_are_refused_and_do_no_harm(calm_url: str) -> None:
    """The session is on its WebSocket."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.upgraded()
            await socket.send_str("4x")
            assert await socket.receive_str() == "4x"
            assert (await client.poll())[0] == 400
            assert await client.post("4lost") == 400
            await socket.send_str("4y")
            assert await socket.receive_str() == "4y"

    asyncio.run(main())


@pytest.mark.parametrize("is_upgraded", [True, False], ids=["upgraded", "probing"])
def test_a_second_websocket_is_closed_and_does_no_harm(calm_url: str, is_upgraded: bool) -> None:
    """ "A client MUST NOT open more than one WebSocket connection per session." """

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await (client.upgraded() if is_upgraded else client.websocket())
            if is_upgraded:
                await socket.send_str("4x")
                assert await socket.receive_str() == "4x"
            second = await client.websocket()
            await second.send_str("2probe")
            assert await is_closed(second)
            if not is_upgraded:
                await socket.send_str("2probe")
                assert await socket.receive_str() == "3probe"
                await socket.send_str("5")
            await socket.send_str("4y")
            assert await socket.receive_str() == "4y"

    asyncio.run(main())


@pytest.mark.parametrize("said", ["5", "4hello", "2", "2nonsense", "x"])
def test_a_websocket_that_does_not_probe_is_closed_and_the_session_polls_on(calm_url: str, said: str) -> None:
    """And it may try again."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            await socket.send_str(said)
            assert await is_closed(socket)
            assert await client.post("4x") == 200
            assert await client.poll() == (200, "4x")
            socket = await client.upgraded()
            await socket.send_str("4y")
            assert await socket.receive_str() == "4y"

    asyncio.run(main())


def test_a_client_that_abandons_its_upgrade_polls_on(calm_url: str) -> None:
    """Polls wait again."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            await socket.close()

            async def waits() -> bool:
                poll = asyncio.ensure_future(client.poll())
                done, _ = await asyncio.wait([poll], timeout=0.2)
                if not done:
                    assert await client.post("4x") == 200
                assert await poll in ((200, "6"), (200, "4x"))
                return not done

            await eventually(waits)

    asyncio.run(main())


def test_a_session_that_ends_takes_the_websocket_along_that_was_tried(calm_url: str) -> None:
    """Nothing stays half open."""

    async def main() -> None:
        async with upgrading(calm_url) as client:
            socket = await client.websocket()
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert await client.post("1") == 200
            assert await is_closed(socket)
            assert (await client.poll())[0] == 400

    asyncio.run(main())
