"""Long polling, where python-engineio alone loses clients: bursts, bodies in pieces, bodies that are no payloads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from node import Server, engine
from tests.support.clients import CROWDS, POLLING
from tests.support.nodes import node_here
from tests.support.waiting import eventually, lastingly


@asynccontextmanager
async def polling_session(url: str) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Open a session by hand and connect to the default namespace; gives the URL for its further requests."""
    async with aiohttp.ClientSession() as session:
        address = f"{url}/socket.io/?EIO=4&transport=polling"
        async with session.get(address) as answer:
            address += "&sid=" + (await answer.text()).partition('"sid":"')[2].partition('"')[0]
        async with session.post(address, data="40") as answer:
            assert answer.status == 200
        yield session, address


def counting_server() -> tuple[Server, list[object]]:
    sio, heard = Server(), []

    @sio.event
    async def say(sid: str, data: object) -> None:
        heard.append(data)

    @sio.event
    async def burst(sid: str, count: int) -> None:
        for number in range(count):
            await sio.emit("number", number, to=sid)

    return sio, heard


@pytest.mark.parametrize("kind", sorted(CROWDS))
def test_a_burst_in_either_direction_loses_nothing_and_nobody(kind: str) -> None:
    """200 events to and from a polling client at once, in order."""

    async def main() -> None:
        sio, heard = counting_server()
        async with node_here(sio) as url, CROWDS[kind]() as crowd:
            client = await crowd.connect(url, POLLING)
            sending = [asyncio.ensure_future(client.call("say", number)) for number in range(200)]
            sending.append(asyncio.ensure_future(client.call("burst", 200)))
            await asyncio.gather(*sending)
            await eventually(lambda: client.heard.all("number") == [*range(200)])
            assert heard == [*range(200)]
            assert client.heard.disconnects == []

    asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True], ids=["with-length", "chunked"])
def test_a_body_that_comes_in_pieces_is_one_body(chunked: bool) -> None:
    """A proxy or a slow line may cut it anywhere, and a proxy may not know its length."""
    text = "x" * 100_000
    body = f'42["say","{text}"]'.encode()

    async def main() -> None:
        sio, heard = counting_server()

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 30_000):
                await lastingly(lambda: not heard, 0.01)
                yield body[start : start + 30_000]

        async with node_here(sio) as url, polling_session(url) as (session, address):
            headers = {} if chunked else {"Content-Length": str(len(body))}
            async with session.post(address, data=pieces(), headers=headers) as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
            await eventually(lambda: heard == [text])

    asyncio.run(main())


BAD_BODIES = [
    b"x",
    b"9",
    b"\xff\xfe",
    b"4\x1e",
    b"d=",
    b"4" + b"[" * 90_000,
    b"\x1e".join([b"4"] * 1001),
    b"4" + b"x" * 100_001,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_body_ends_its_own_session_with_400_and_without_a_traceback(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Not an Engine.IO payload, too many packets, too long."""

    async def main() -> None:
        sio, _ = counting_server()
        async with node_here(sio, max_message_bytes=100_000) as url, polling_session(url) as (session, address):
            poll = asyncio.ensure_future(_polled(session, address))
            [own] = sio.eio.sessions.values()
            await eventually(lambda: own.polling and own.polling.has_poll, what="the poll waits")
            async with session.post(address, data=body) as answer:
                assert answer.status == (413 if len(body) > 100_000 else 400)
            await poll
            await eventually(lambda: sio.eio.connections == 0)

    asyncio.run(main())
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_bad_body_of_a_client_that_does_not_poll_is_answered_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot fetch its last packets, so they are not waited for without limit."""
    monkeypatch.setattr(engine, "CLOSE_WAIT_S", 0.1)

    async def main() -> None:
        sio, _ = counting_server()
        async with node_here(sio) as url, polling_session(url) as (session, address):
            async with asyncio.timeout(30), session.post(address, data=b"x") as answer:
                assert answer.status == 400
            assert sio.eio.connections == 0

    asyncio.run(main())


async def _polled(session: aiohttp.ClientSession, address: str) -> None:
    """Poll until the session is over, as a client does."""
    while True:
        async with session.get(address) as answer:
            if answer.status != 200 or (await answer.text()).endswith("1"):
                return
