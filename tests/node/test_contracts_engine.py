"""Private names of python-engineio that node/engine.py touches.  An upgrade that moves one fails here, by name."""

from __future__ import annotations

import asyncio
import inspect

import engineio
import pytest
from aiohttp import web
from engineio.async_drivers import aiohttp as driver
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE, Packet
from engineio.payload import Payload

from cluster.tag import slot_of, tag_of
from node import Server
from node.engine import MOST_POLLED, MOST_POSTED, Engine, WebSocket


def test_an_engine_makes_its_sids_with_generate_id() -> None:
    """Engine.IO sids come from `_handle_connect`, Socket.IO sids from the manager's `pre_connect`; both ask there."""
    assert "self.generate_id()" in inspect.getsource(engineio.AsyncServer._handle_connect)
    engine = Engine(async_mode="aiohttp")
    assert "." not in engine.generate_id()
    engine.tag = tag_of("n3000", b"secret")
    assert slot_of(engine.generate_id(), b"secret") == "n3000"


def test_socketio_sids_are_the_engines() -> None:
    """`pre_connect` of the client manager asks the engine for a sid."""

    async def main() -> None:
        sio = Server()
        sio.eio.tag = tag_of("n3000", b"secret")
        sid = await sio.manager.pre_connect("engine sid", "/")
        assert slot_of(sid, b"secret") == "n3000"

    asyncio.run(main())


def test_the_websocket_class_of_a_driver_is_an_entry_of_async() -> None:
    """`_async["websocket"](handler, server)` is called, then the result with the environ."""
    source = inspect.getsource(AsyncSocket._upgrade_websocket)
    assert "self.server._async['websocket'](" in source
    assert "self._websocket_handler, self.server)" in source
    assert list(inspect.signature(driver.WebSocket.__init__).parameters) == ["self", "handler", "server"]
    assert driver._async["websocket"] is driver.WebSocket, "ours must not replace everybody's"
    assert Engine(async_mode="aiohttp")._async["websocket"] is WebSocket


def test_a_websocket_sends_and_waits_through_sock() -> None:
    """We make `_sock` ourselves, because the driver knows neither our close time-out nor our compression."""
    for method in (driver.WebSocket.send, driver.WebSocket.wait, driver.WebSocket.close):
        assert "self._sock" in inspect.getsource(method)
    parameters = inspect.signature(web.WebSocketResponse.__init__).parameters
    assert {"max_msg_size", "timeout", "compress"} <= set(parameters)


def test_an_upgrade_handler_is_a_method_of_its_session() -> None:
    """From the handler we find the session that a WebSocket belongs to."""
    engine = Engine(async_mode="aiohttp")
    session = AsyncSocket(engine, "sid")
    assert WebSocket(session._websocket_handler, engine).handler.__self__ is session


def test_none_in_a_sessions_queue_ends_its_writer_after_what_is_queued() -> None:
    """Packets before it go out; then `poll` returns nothing, and the writer closes the WebSocket."""

    async def main() -> None:
        session = AsyncSocket(Engine(async_mode="aiohttp"), "sid")
        await session.queue.put(Packet(MESSAGE, "last words"))
        await session.queue.put(None)
        assert [packet.data for packet in await session.poll()] == ["last words"]
        assert await session.poll() == []

    asyncio.run(main())
    assert "await ws.close()" in inspect.getsource(AsyncSocket._websocket_handler)


def test_closing_a_session_runs_its_handlers_once_and_queues_nothing_if_aborted() -> None:
    """`close(wait=False, abort=True, reason=…)`, and `closed` afterwards."""

    async def main() -> None:
        reasons = []
        engine = Engine(async_mode="aiohttp")
        engine.on("disconnect", lambda _, reason: reasons.append(reason))
        session = AsyncSocket(engine, "sid")
        for _ in range(2):
            await session.close(wait=False, abort=True, reason="because")
        assert session.closed
        assert session.queue.empty()
        assert reasons == ["because"]

    asyncio.run(main())


def test_sessions_have_the_attributes_that_we_read() -> None:
    """`sockets` by sid; `closed` and `upgraded` of each."""
    engine = Engine(async_mode="aiohttp")
    engine.sockets["sid"] = session = AsyncSocket(engine, "sid")
    assert (session.closed, session.upgraded, engine.connections) == (False, False, 1)
    session.closed = True
    assert engine.connections == 0


def test_a_poll_takes_one_packet_and_then_what_is_there_at_once() -> None:
    """`get`, then `get_nowait` until QueueEmpty, of the queue that `create_queue` made: that bounds a poll."""

    async def main() -> None:
        session = AsyncSocket(Engine(async_mode="aiohttp"), "sid")
        for number in range(MOST_POLLED + 3):
            await session.queue.put(Packet(MESSAGE, str(number)))
        polls = [await session.poll(), await session.poll()]
        assert [len(packets) for packets in polls] == [MOST_POLLED, 3]
        assert [packet.data for packets in polls for packet in packets] == [str(n) for n in range(MOST_POLLED + 3)]
        session.queue.put_nowait(None)
        assert await session.poll() == []

    asyncio.run(main())


def test_a_body_is_read_through_the_environ() -> None:
    """`CONTENT_LENGTH`, then `wsgi.input`, from `_async["translate_request"]`, which may be a coroutine function."""
    source = inspect.getsource(AsyncSocket.handle_post_request)
    assert "environ.get('CONTENT_LENGTH', '0')" in source
    assert "environ['wsgi.input'].read(length)" in source
    assert "iscoroutinefunction(translate_request)" in inspect.getsource(engineio.AsyncServer.handle_request)


def test_the_number_of_packets_in_a_body_is_a_class_attribute() -> None:
    """Ours is set when node.engine is imported."""
    Payload(encoded_payload="\x1e".join(["4x"] * MOST_POSTED))
    with pytest.raises(ValueError, match="Too many"):
        Payload(encoded_payload="\x1e".join(["4x"] * (MOST_POSTED + 1)))


@pytest.mark.parametrize(
    "name", ["create_queue", "disconnect", "_trigger_event", "handle_request", "send_packet", "generate_id"]
)
def test_the_engine_overrides_what_is_there(name: str) -> None:
    """A method that upstream renames would leave ours uncalled."""
    assert hasattr(engineio.AsyncServer, name)


def test_every_message_passes_trigger_event_and_send_packet() -> None:
    """Packets in and out are counted there."""
    assert "_trigger_event(\n                'message'" in inspect.getsource(AsyncSocket.receive)
    assert "self.send_packet(" in inspect.getsource(engineio.AsyncServer.send)
