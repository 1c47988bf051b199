"""Engine.IO protocol 4, "Heartbeat": pings come, and who is silent is found, not too early.

That they do not come late is for tests/node/test_wheel.py and tests/node/test_engine.py, in virtual time.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from tests.support.engine import opened, polled_session
from tests.support.engine_app import INTERVAL_S, TIMEOUT_S
from tests.support.waiting import eventually

PATH = "/socket.io/?EIO=4&transport="
EARLY_S = 0.05
"""What two clocks may differ by."""


def test_pings_come_to_a_poll_in_time(engine_url: str) -> None:
    """One for each pong; none before it."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            address = await polled_session(http, engine_url, PATH)
            for _ in range(3):
                began = time.monotonic()
                async with http.get(address) as answer:
                    assert (answer.status, await answer.text()) == (200, "2")
                assert time.monotonic() - began > INTERVAL_S / 2
                async with http.post(address, data="3") as answer:
                    assert answer.status == 200

    asyncio.run(main())


def test_pings_come_over_a_websocket_in_time(engine_url: str) -> None:
    """As long as they are answered."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{engine_url}{PATH}websocket") as socket:
            await socket.receive_str()
            for _ in range(4):
                began = time.monotonic()
                assert await socket.receive_str() == "2"
                assert time.monotonic() - began > INTERVAL_S / 2
                await socket.send_str("3")

    asyncio.run(main())


def test_a_silent_client_that_does_not_poll_is_found_when_the_time_is_over_and_not_before(engine_url: str) -> None:
    """Its session is known until then."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            began = time.monotonic()
            address = await polled_session(http, engine_url, PATH)

            async def is_over() -> bool:
                async with http.post(address, data="4only a pong counts") as answer:
                    return answer.status == 400

            await eventually(is_over)
            assert time.monotonic() - began > INTERVAL_S + TIMEOUT_S - EARLY_S

    asyncio.run(main())


def test_a_silent_client_that_polls_is_told_that_its_session_is_unknown(engine_url: str) -> None:
    """A close packet would keep the Python client away; an error brings both kinds of clients back."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            address = await polled_session(http, engine_url, PATH)
            async with http.get(address) as answer:
                assert await answer.text() == "2"
            async with http.get(address) as answer:
                assert (answer.status, (await answer.json())["code"]) == (400, 1)

    asyncio.run(main())


def test_a_silent_websocket_is_closed_when_the_time_is_over_and_not_before(engine_url: str) -> None:
    """Whatever else it sends: only a pong counts."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{engine_url}{PATH}websocket") as socket:
            began = time.monotonic()
            opened(await socket.receive_str())
            assert await socket.receive_str() == "2"
            await socket.send_str("4still here")
            assert await socket.receive_str() == "4still here"
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert time.monotonic() - began > INTERVAL_S + TIMEOUT_S - EARLY_S

    asyncio.run(main())


def test_pongs_that_nobody_asked_for_change_nothing(engine_url: str) -> None:
    """Neither do they put off the next ping."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{engine_url}{PATH}websocket") as socket:
            await socket.receive_str()
            ping = asyncio.ensure_future(socket.receive_str())

            async def another_pong() -> bool:
                await socket.send_str("3")
                return ping.done()

            await eventually(another_pong)
            assert ping.result() == "2"

    asyncio.run(main())
