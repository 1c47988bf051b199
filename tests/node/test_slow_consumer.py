"""A client that takes nothing of what it is sent, and answers every ping all the same."""

from __future__ import annotations

import asyncio
import logging
import socket

import aiohttp
import pytest
import socketio

from node import Server
from node.session import SLOW_CONSUMER
from tests.support.balancer import upgrade_request
from tests.support.engine import Heard, message, polled_session, serving
from tests.support.nodes import node_here
from tests.support.waiting import eventually


def _frame(text: str) -> bytes:
    """Return a client's text frame (RFC 6455 5.2), masked with zeros."""
    data = text.encode()
    return bytes((0x81, 0x80 | len(data))) + bytes(4) + data


async def _deaf_client(url: str) -> asyncio.StreamWriter:
    """Connect over a WebSocket and read no more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(upgrade_request("/socket.io/?EIO=4&transport=websocket"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_frame("40"))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


def test_a_client_that_takes_nothing_is_cut_and_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    """What waits for one client is bounded; its disconnect handler runs, and the others hear everything."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        sio, ended = Server(), []

        @sio.event
        async def disconnect(sid: str, reason: str) -> None:
            ended.append(reason)

        async with node_here(sio, slow_consumer_bytes=500_000) as url, socketio.AsyncSimpleClient() as healthy:
            await healthy.connect(url, transports=["websocket"])
            deaf = await _deaf_client(url)
            await eventually(lambda: sio.eio.connections == 2)
            heard = 0
            while not ended:
                assert heard < 500, "the kernel's own buffers hold a few MB"
                await sio.emit("news", "x" * 100_000)
                assert len((await healthy.receive(timeout=5))[1]) == 100_000
                heard += 1
            await eventually(lambda: sio.eio.connections == 1)
            assert ended == [SLOW_CONSUMER]
            assert sio.eio.limits.counts.slow_consumers == 1
            await sio.emit("news", "last")
            assert await healthy.receive(timeout=5) == ["news", "last"]
            deaf.transport.abort()

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_a_client_that_does_not_poll_is_bounded_likewise(caplog: pytest.LogCaptureFixture) -> None:
    """What is volatile is not taken first; then the session ends, is counted and logged once, and a poll is told."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        heard = Heard()
        async with serving(heard, slow_consumer_bytes=10_000) as (engine, url), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            [session] = engine.sessions.values()
            assert session.send(message("x" * 100_000)), "a single message may be as large as an application likes"
            assert not session.send(message("volatile"), volatile=True)
            assert session.is_open
            assert not session.send(message("too much"))
            assert not session.is_open
            assert not session.send(message("after the end"))
            assert heard.reasons == [SLOW_CONSUMER]
            counts = engine.limits.counts
            assert (counts.slow_consumers, counts.volatile_dropped) == (1, 1)
            async with http.get(address) as answer:
                assert answer.status == 400

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["client closed: it reads too slowly"]


def test_what_a_polling_client_has_fetched_waits_no_more() -> None:
    """However much passes through: only what is there at once counts."""

    async def main() -> None:
        async with serving(slow_consumer_bytes=10_000) as (engine, url), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            [session] = engine.sessions.values()
            for _ in range(50):
                assert session.send(message("x" * 5000))
                async with http.get(address) as answer:
                    assert len(await answer.text()) == 5001
                assert session.waiting_bytes == 0

    asyncio.run(main())
