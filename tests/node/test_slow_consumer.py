"""A client that takes nothing of what it is sent, and answers every ping all the same."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
import socketio
from engineio.packet import MESSAGE, Packet

from node import Server, engine
from tests.support.balancer import upgrade_request
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


def test_a_client_that_takes_nothing_is_cut_and_costs_nobody_else_anything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits for one client is bounded; its disconnect handler runs, and the others hear everything."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(engine, "MOST_WAITING_BYTES", 1_000_000)

    async def main() -> None:
        sio, ended = Server(), []

        @sio.event
        async def disconnect(sid: str, reason: str) -> None:
            ended.append(reason)

        async with node_here(sio) as url, socketio.AsyncSimpleClient() as healthy:
            await healthy.connect(url, transports=["websocket"])
            deaf = await _deaf_client(url)
            await eventually(lambda: sio.eio.connections == 2)
            heard = 0
            while not ended:
                assert heard < 500, "the kernel's own buffers hold a few MB"
                await sio.emit("news", "x" * 100_000)
                assert len((await healthy.receive(timeout=5))[1]) == 100_000
                heard += 1
            await eventually(lambda: (sio.eio.connections, len(sio.eio.websockets)) == (1, 1))
            assert ended == [engine.SLOW_CONSUMER]
            await sio.emit("news", "last")
            assert await healthy.receive(timeout=5) == ["news", "last"]
            deaf.transport.abort()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["client cut: it reads too slowly"]


def test_what_a_client_has_taken_waits_no_more() -> None:
    """However much passes through: only what is there at once counts."""

    async def main() -> None:
        outbox = engine.Outbox()
        for _ in range(1000):
            await outbox.put(Packet(MESSAGE, data="x" * 1000))
            await outbox.get()
        await outbox.put(None)
        assert outbox.waiting_bytes < 1000
        await outbox.get()
        assert outbox.waiting_bytes == 0

    asyncio.run(main())
