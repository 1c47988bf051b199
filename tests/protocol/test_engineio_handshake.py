"""Engine.IO protocol 4: "Transports", "Handshake", and what is refused, with Engine.IO's codes."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.support.engine import opened

PATH = "/socket.io/?EIO=4&transport="
UNKNOWN_TRANSPORT = {"code": 0, "message": "Transport unknown"}
UNKNOWN_SID = {"code": 1, "message": "Session ID unknown"}
BAD_HANDSHAKE_METHOD = {"code": 2, "message": "Bad handshake method"}
BAD_REQUEST = {"code": 3, "message": "Bad request"}
UNSUPPORTED_PROTOCOL_VERSION = {"code": 5, "message": "Unsupported protocol version"}

EXPECTED = {"pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1000000}

WEBSOCKET_HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def refusal(url: str, method: str = "GET", **options: Any) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url, **options) as answer:
        return answer.status, answer.content_type, await answer.json()


def test_a_session_opens_by_polling(calm_url: str) -> None:
    """An open packet with sid, upgrades, pingInterval, pingTimeout and maxPayload; text, and not to be cached."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, http.get(f"{calm_url}{PATH}polling") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
            assert answer.headers["Cache-Control"] == "no-store"
            said = opened(await answer.text())
            sid = said.pop("sid")
            assert said == EXPECTED | {"upgrades": ["websocket"]}
            assert len(sid.rpartition(".")[2]) == 20

    asyncio.run(main())


def test_a_session_opens_on_a_websocket(calm_url: str) -> None:
    """The same, and nothing to upgrade to."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{calm_url}{PATH}websocket") as socket:
            said = opened(await socket.receive_str())
            assert said.pop("sid")
            assert said == EXPECTED | {"upgrades": []}

    asyncio.run(main())


def test_sids_are_never_the_same(calm_url: str) -> None:
    """Nor can one be told from another."""

    async def main() -> None:
        sids = set()
        async with aiohttp.ClientSession() as http:
            for _ in range(20):
                async with http.get(f"{calm_url}{PATH}polling") as answer:
                    sids.add(opened(await answer.text())["sid"])
        assert len(sids) == 20

    asyncio.run(main())


REFUSED = {
    "no transport": ("GET", "/socket.io/?EIO=4", UNKNOWN_TRANSPORT),
    "unknown transport": ("GET", "/socket.io/?EIO=4&transport=abc", UNKNOWN_TRANSPORT),
    "transport of an object's own": ("GET", "/socket.io/?EIO=4&transport=constructor", UNKNOWN_TRANSPORT),
    "no version": ("GET", "/socket.io/?transport=polling", UNSUPPORTED_PROTOCOL_VERSION),
    "no such version": ("GET", "/socket.io/?EIO=abc&transport=polling", UNSUPPORTED_PROTOCOL_VERSION),
    "an older version": ("GET", "/socket.io/?EIO=3&transport=polling", UNSUPPORTED_PROTOCOL_VERSION),
    "unknown sid": ("GET", f"{PATH}polling&sid=abc", UNKNOWN_SID),
    "unknown sid, posted": ("POST", f"{PATH}polling&sid=abc", UNKNOWN_SID),
    "sid of an object's own": ("GET", f"{PATH}polling&sid=__class__", UNKNOWN_SID),
    "posted handshake": ("POST", f"{PATH}polling", BAD_HANDSHAKE_METHOD),
    "put handshake": ("PUT", f"{PATH}polling", BAD_HANDSHAKE_METHOD),
    "deleted handshake": ("DELETE", f"{PATH}polling", BAD_HANDSHAKE_METHOD),
    "a WebSocket without upgrade": ("GET", f"{PATH}websocket", BAD_REQUEST),
    "not even a query": ("GET", "/socket.io/", UNKNOWN_TRANSPORT),
    "a query that is none": ("GET", "/socket.io/?%%%&&==&=&EIO", UNKNOWN_TRANSPORT),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_bad_request_is_answered_with_400_and_a_code(calm_url: str, case: str) -> None:
    """ "If a mandatory query parameter is missing, then the server MUST respond with an HTTP 400 error status." """
    method, target, said = REFUSED[case]
    assert asyncio.run(refusal(calm_url + target, method)) == (400, "application/json", said)


@pytest.mark.parametrize(
    "case", ["no transport", "unknown transport", "no version", "no such version", "unknown sid", "an older version"]
)
def test_a_bad_request_for_a_websocket_is_refused_as_well(calm_url: str, case: str) -> None:
    """Before the WebSocket is open, so with a status."""
    _, target, said = REFUSED[case]
    target = target.replace("transport=polling", "transport=websocket")
    status, kind, answer = asyncio.run(refusal(calm_url + target, headers=WEBSOCKET_HEADERS))
    assert (status, kind, answer) == (400, "application/json", said)


def test_a_websocket_of_another_version_is_refused_as_rfc_6455_says(calm_url: str) -> None:
    """4.4: 426 with the version that is spoken."""

    async def main() -> None:
        headers = WEBSOCKET_HEADERS | {"Sec-WebSocket-Version": "8"}
        address = f"{calm_url}{PATH}websocket"
        async with aiohttp.ClientSession() as http, http.get(address, headers=headers) as answer:
            assert (answer.status, answer.headers["Sec-WebSocket-Version"]) == (426, "13")

    asyncio.run(main())


def test_another_method_for_a_session_is_refused(calm_url: str) -> None:
    """And does it no harm."""

    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{calm_url}{PATH}polling") as answer:
                address = f"{calm_url}{PATH}polling&sid={opened(await answer.text())['sid']}"
            async with http.put(address, data="4x") as answer:
                assert (answer.status, await answer.json()) == (400, BAD_REQUEST)
            async with http.post(address, data="4x") as answer:
                assert answer.status == 200
            async with http.get(address) as answer:
                assert await answer.text() == "4x"

    asyncio.run(main())


def test_browsers_may_ask_first(calm_url: str) -> None:
    """A preflight is answered without a session (Fetch standard, "CORS-preflight request")."""

    async def main() -> None:
        headers = {"Origin": "http://page.example", "Access-Control-Request-Headers": "x-mine"}
        address = f"{calm_url}{PATH}polling"
        async with aiohttp.ClientSession() as http, http.options(address, headers=headers) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "http://page.example"
            assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, GET, POST"
            assert answer.headers["Access-Control-Allow-Headers"] == "x-mine"
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"

    asyncio.run(main())
