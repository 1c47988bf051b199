"""Private names of python-socketio that node/server.py and node/fanout.py touch."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import socketio
from socketio.async_manager import AsyncManager
from socketio.async_pubsub_manager import AsyncPubSubManager

from node import Server
from node.engine import Engine


def test_the_engine_class_is_asked_for() -> None:
    """`_engineio_server_class` decides which Engine.IO server is made."""
    assert isinstance(Server().eio, Engine)


def test_every_event_with_a_handler_passes_handle_event_internal() -> None:
    """With and without `async_handlers`; its arguments begin with server and sid and end with data, namespace, id."""
    source = inspect.getsource(socketio.AsyncServer._handle_event)
    assert source.count("self._handle_event_internal") == 2
    parameters = list(inspect.signature(socketio.AsyncServer._handle_event_internal).parameters)
    assert parameters == ["self", "server", "sid", "eio_sid", "data", "namespace", "id"]


def test_a_client_manager_may_be_replaced_before_the_first_client() -> None:
    """`manager` is an attribute, `set_server` introduces the two, `initialize` comes with the first client."""
    sio = Server()
    manager = AsyncManager()
    sio.manager = manager
    manager.set_server(sio)
    assert manager.server is sio
    assert not sio.manager_initialized
    assert "self.manager.initialize()" in inspect.getsource(socketio.AsyncServer._handle_eio_connect)


def test_an_emit_is_handled_here_before_it_is_published() -> None:
    """So local clients do not wait for Redis."""

    async def main() -> None:
        steps = []

        class Manager(AsyncPubSubManager):  # type: ignore[misc]
            async def _handle_emit(self, message: Any) -> None:
                steps.append("here")

            async def _publish(self, data: Any) -> None:
                steps.append("published")

        await Manager().emit("event", "data")
        assert steps == ["here", "published"]

    asyncio.run(main())


def test_what_listen_yields_is_handled_unless_it_is_ours() -> None:
    """`_thread` reads `_listen`, and ends when it is cancelled."""

    async def main() -> None:
        handled = []
        seen = asyncio.Event()

        class Manager(AsyncPubSubManager):  # type: ignore[misc]
            async def _listen(self) -> AsyncIterator[str]:
                yield self.json.dumps({"method": "emit", "host_id": self.host_id, "event": "ours"})
                yield "not json"
                yield self.json.dumps({"method": "emit", "host_id": "other", "event": "theirs"})
                seen.set()
                await asyncio.Event().wait()

            async def _handle_emit(self, message: dict[str, Any]) -> None:
                handled.append(message["event"])

        manager = Manager()
        Server(client_manager=manager)
        task = asyncio.ensure_future(manager._thread())
        await seen.wait()
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.done()
        assert handled == ["theirs"]

    asyncio.run(main())
