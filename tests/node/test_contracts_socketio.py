"""Names of python-socketio that are not public and that we rely on.  docs/engine.md says what for."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator
from typing import Any

import socketio
from socketio import async_server, base_server
from socketio.async_manager import AsyncManager
from socketio.async_pubsub_manager import AsyncPubSubManager
from socketio.base_manager import BaseManager

from node import Server
from node.clients import ClientManager
from node.engine import Engine
from tests.support.raw_socketio import talking_to


def test_the_engine_class_is_asked_for() -> None:
    """`_engineio_server_class` decides which Engine.IO server is made, with the options that are not Socket.IO's."""
    sio = Server(ping_timeout=7)
    assert isinstance(sio.eio, Engine)
    assert sio.eio.ping_timeout == 7


def test_the_constructor_only_registers_what_the_engine_never_calls() -> None:
    """python-socketio's own handlers of Engine.IO events are replaced by our dispatcher, which is set afterwards."""
    source = inspect.getsource(base_server.BaseServer.__init__)
    assert source.count("self.eio.on(") == 3
    sio = Server()
    assert set(sio.eio.handlers) == {"connect", "message", "disconnect"}


def test_handlers_are_kept_where_we_look_for_them() -> None:
    """`handlers[namespace][event]` and `namespace_handlers[namespace]`; `reserved_events` are not for catch-alls."""
    sio = Server()
    sio.on("x", print)
    sio.on("y", print, namespace="/a")
    namespace = socketio.AsyncNamespace("/b")
    sio.register_namespace(namespace)
    assert sio.handlers == {"/": {"x": print}, "/a": {"y": print}}
    assert sio.namespace_handlers == {"/b": namespace}
    assert sio.reserved_events == ["connect", "disconnect"]


def test_a_client_manager_may_be_replaced_before_the_first_client() -> None:
    """`manager` is an attribute, `set_server` introduces the two, `initialize` comes with the first client."""
    sio = Server()
    manager = ClientManager()
    sio.manager = manager
    manager.set_server(sio)
    assert manager.server is sio
    assert not sio.manager_initialized
    assert "self.manager.initialize()" in inspect.getsource(async_server.AsyncServer._handle_eio_connect)


def test_what_async_server_inherits_calls_the_manager_and_nothing_else() -> None:
    """Rooms are the manager's; these methods of python-socketio's server we leave as they are."""
    for method in ("enter_room", "leave_room", "close_room"):
        assert f"await self.manager.{method}(" in inspect.getsource(getattr(async_server.AsyncServer, method))
        assert method not in vars(Server)
    assert "self.manager.get_rooms(" in inspect.getsource(base_server.BaseServer.rooms)


def test_our_manager_replaces_every_method_that_touches_the_rooms() -> None:
    """A new one that looks into `self.rooms` or at bidicts would find neither."""
    touching = set()
    for kind in (AsyncManager, BaseManager):
        for name, method in vars(kind).items():
            if inspect.isfunction(method) and any(
                word in inspect.getsource(method)
                for word in ("self.rooms", "pending_connect", "pending_disconnect", "_fwdm", "eio_to_sid", "super()")
            ):
                touching.add(name)
    assert touching - set(vars(ClientManager)) <= {"__init__"}


def test_callbacks_are_numbered_by_a_counter_under_zero() -> None:
    """`_generate_ack_id` keeps `callbacks[sid]`: 0 is the counter, which begins at 1."""
    manager = BaseManager()
    assert manager._generate_ack_id("sid", print) == 1
    assert manager.callbacks["sid"][1] is print
    assert isinstance(manager.callbacks["sid"][0], itertools.count)
    assert next(manager.callbacks["sid"][0]) == 2


def test_the_pubsub_manager_delivers_through_what_it_inherits() -> None:
    """`super()` in it is our manager: nothing of the delivery is its own."""
    source = inspect.getsource(AsyncPubSubManager)
    for method in ("emit", "disconnect", "can_disconnect", "enter_room", "leave_room", "close_room"):
        assert f"super().{method}(" in source
    assert "_send_eio_packet" not in source
    assert ClientManager in type("Mixed", (AsyncPubSubManager, ClientManager), {}).__mro__[:3]


def test_what_is_published_is_python_socketios_own() -> None:
    """Method, event, data as a list, namespace, room, skip_sid, callback, host_id: outside emitters write the same."""

    async def main() -> None:
        published: list[dict[str, Any]] = []

        class Manager(AsyncPubSubManager):  # type: ignore[misc]
            async def _publish(self, data: dict[str, Any]) -> None:
                published.append(data)

        manager = Manager(write_only=True)
        await manager.emit("event", b"x", room="red")
        [message] = published
        assert message == {
            "method": "emit",
            "event": "event",
            "data": [[{"_placeholder": True, "num": 0}], "eA=="],
            "binary": True,
            "namespace": "/",
            "room": "red",
            "skip_sid": None,
            "callback": None,
            "host_id": manager.host_id,
        }

    asyncio.run(main())


def test_what_listen_yields_is_handled_unless_it_is_ours() -> None:
    """`_thread` reads `_listen`, calls `_handle_emit`, and ends when it is cancelled."""

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


def test_every_public_method_of_the_server_is_accounted_for() -> None:
    """A method that python-socketio adds must be looked at: does it work with what is behind our Server?"""
    public = {name for name in dir(socketio.AsyncServer) if not name.startswith("_")}
    assert public == {
        "attach",
        "call",
        "close_room",
        "disconnect",
        "emit",
        "enter_room",
        "event",
        "get_environ",
        "get_session",
        "handle_request",
        "instrument",
        "is_asyncio_based",
        "leave_room",
        "on",
        "reason",
        "register_namespace",
        "reserved_events",
        "rooms",
        "save_session",
        "send",
        "session",
        "shutdown",
        "sleep",
        "start_background_task",
        "transport",
    }


def test_nothing_of_python_engineio_serves() -> None:
    """python-socketio imports it; no object of it is made, and no function of it runs while a client talks."""
    import sys

    async def main() -> None:
        called: set[str] = set()

        def watch(frame: Any, event: str, _: Any) -> None:
            if event == "call" and "/engineio/" in frame.f_code.co_filename:
                called.add(frame.f_code.co_qualname)

        sio = Server()
        sio.on("x", lambda sid, data: data)
        async with talking_to(sio) as client:
            sys.setprofile(watch)
            try:
                sid = await client.connect()
                assert await client.ask('21["x",1]') == "31[1]"
                await sio.emit("y", 1)
                assert await client.hear() == '2["y",1]'
                await sio.disconnect(sid)
                assert await client.hear() == "1"
            finally:
                sys.setprofile(None)
        assert called == set()

    asyncio.run(main())
