"""python-socketio's server documentation, chapter by chapter, with its own client."""

from __future__ import annotations

import asyncio
import functools
import logging
import operator
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web

from cluster.errors import UsageError
from node import Server
from tests.support.nodes import node_here
from tests.support.raw_socketio import talking_to
from tests.support.waiting import eventually


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[socketio.AsyncClient]:
    """Connect python-socketio's client; `heard` has every event that it got."""
    serializer = options.pop("serializer", "default")
    async with aiohttp.ClientSession() as session:
        client = socketio.AsyncClient(
            http_session=session, handle_sigint=False, reconnection=False, serializer=serializer
        )
        client.heard = []
        for namespace in options.get("namespaces", ["/"]):
            client.on("*", lambda event, *data: client.heard.append((event, *data)), namespace=namespace)
        await client.connect(url, **options)
        try:
            yield client
        finally:
            await client.shutdown()


def run(sio: Server, test: Any, *, count: int = 1, **options: Any) -> None:
    """Run `test` with the server and `count` clients."""

    async def main() -> None:
        async with node_here(sio) as url:
            if count == 1:
                async with client_of(url, **options) as client:
                    await test(client)
            else:
                async with client_of(url, **options) as one, client_of(url, **options) as two:
                    await test(one, two)

    asyncio.run(main())


# Events


def test_handlers_are_registered_in_every_documented_way() -> None:
    """`event`, `on` as decorator and as method, functions and coroutines; each answer is the acknowledgement."""
    sio = Server()

    @sio.event
    def plain(sid: str, data: int) -> int:
        return data + 1

    @sio.event
    async def coroutine(sid: str, data: int) -> int:
        await asyncio.sleep(0)
        return data + 2

    @sio.on("with spaces")
    async def spaces(sid: str) -> tuple[str, int]:
        return "OK", 123

    sio.on("method", lambda sid, *data: list(data))

    async def main(client: Any) -> None:
        assert await client.call("plain", 1) == 2
        assert await client.call("coroutine", 1) == 3
        assert await client.call("with spaces") == ("OK", 123)
        assert await client.call("method", (1, b"2", {"3": None})) == [1, b"2", {"3": None}]

    run(sio, main)


def test_a_plain_function_may_return_something_to_wait_for() -> None:
    """A wrapper of the application's, for example."""
    sio = Server()

    async def later(data: int) -> int:
        return data * 2

    sio.on("x", lambda sid, data: later(data))

    async def main(client: Any) -> None:
        assert await client.call("x", 4) == 8

    run(sio, main)


def test_catch_all_events_and_namespaces() -> None:
    """With the event's name, the namespace, or both before the rest; `namespaces="*"` lets clients into any."""
    sio = Server(namespaces="*")
    sio.on("*", lambda event, sid, *data: ["any event", event, *data])
    sio.on("known", lambda namespace, sid, *data: ["any namespace", namespace, *data], namespace="*")
    sio.on("*", lambda event, namespace, sid, *data: ["all", event, namespace, *data], namespace="*")

    async def main(client: Any) -> None:
        assert await client.call("x", 1) == ["any event", "x", 1]
        assert await client.call("known", 1, namespace="/a") == ["any namespace", "/a", 1]
        assert await client.call("x", 1, namespace="/a") == ["all", "x", "/a", 1]

    run(sio, main, namespaces=["/", "/a"])


def test_connect_gets_the_request_and_the_authentication() -> None:
    """`environ` is WSGI's; `auth` is what the client gave, and handlers without it are called without it."""
    sio = Server()
    seen: dict[str, Any] = {}

    @sio.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        seen.update(environ=environ, auth=auth, sid=sid)

    @sio.on("connect", namespace="/old")
    def connect_old(sid: str, environ: dict[str, Any]) -> None:
        seen.update(old=sid)

    async def main(client: Any) -> None:
        assert seen["auth"] == {"token": 1}
        assert seen["sid"] == client.get_sid()
        assert seen["old"] == client.get_sid("/old")
        assert seen["environ"]["HTTP_X_TEST"] == "yes"
        assert seen["environ"]["REQUEST_METHOD"] == "GET"
        assert sio.get_environ(client.get_sid()) is seen["environ"]
        assert sio.get_environ("nobody") is None
        [(eio_sid, environ)] = sio.environ.items()
        assert (environ["HTTP_X_TEST"], eio_sid, len(sio.environ)) == ("yes", client.eio.sid, 1)

    run(sio, main, namespaces=["/", "/old"], auth={"token": 1}, headers={"X-Test": "yes"})


REFUSALS: list[tuple[Any, Any]] = [
    (False, {"message": "Connection rejected by server"}),
    (socketio.exceptions.ConnectionRefusedError(), {"message": "Connection rejected by server"}),
    (socketio.exceptions.ConnectionRefusedError("no"), {"message": "no"}),
    (socketio.exceptions.ConnectionRefusedError("no", 1), {"message": "no", "data": 1}),
    (socketio.exceptions.ConnectionRefusedError("no", 1, 2), {"message": "no", "data": (1, 2)}),
    (ConnectionRefusedError(), {"message": "Connection refused by server"}),
    (RuntimeError("a bug"), {"message": "Connection rejected by server"}),
]


@pytest.mark.parametrize("always_connect", [False, True])
@pytest.mark.parametrize(("answer", "told"), REFUSALS, ids=lambda value: repr(value)[:40])
def test_a_connect_handler_can_refuse(answer: Any, told: Any, always_connect: bool) -> None:
    """The client is told why, or with `always_connect` disconnected; it is in no room, and gets no disconnect event."""
    sio = Server(always_connect=always_connect)
    ended: list[str] = []

    @sio.event
    async def connect(sid: str, environ: Any) -> Any:
        await sio.enter_room(sid, "room")
        if isinstance(answer, Exception):
            raise answer
        return answer

    sio.on("disconnect", lambda sid, reason: ended.append(sid))

    async def main() -> None:
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            client = socketio.AsyncClient(http_session=session, handle_sigint=False, reconnection=False)
            errors: list[Any] = []
            client.on("connect_error", errors.append)
            if always_connect:
                await client.connect(url)
                await eventually(lambda: not client.connected)
            else:
                with pytest.raises(socketio.exceptions.ConnectionError):
                    await client.connect(url)
                assert errors == [{**told, "data": list(told["data"])} if isinstance(told.get("data"), tuple) else told]
            await client.shutdown()
            assert sio.manager.directory.spaces == {}
            assert ended == []

    asyncio.run(main())


def test_what_a_client_is_sent_while_it_connects_comes_after_it_is_connected() -> None:
    """And nothing at all if it is refused: what is for everybody is not for those who may not come in."""

    def noted_by(client: socketio.AsyncClient) -> list[str]:
        steps: list[str] = []
        client.on("connect", lambda: steps.append("connect"))
        client.on("connect_error", lambda _: steps.append("connect_error"))
        client.on("*", lambda event, data: steps.append(f"{event} {data}"))
        return steps

    sio = Server()
    deciding, decide = asyncio.Event(), asyncio.Event()

    @sio.event
    async def connect(sid: str, environ: Any, auth: Any) -> bool:
        await sio.emit("welcome", 1, to=sid)
        deciding.set()
        await decide.wait()
        return bool(auth)

    async def main() -> None:
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            for auth, heard in (({"ok": 1}, ["connect", "welcome 1", "news 2"]), (None, ["connect_error"])):
                deciding.clear()
                decide.clear()
                client = socketio.AsyncClient(http_session=session, handle_sigint=False, reconnection=False)
                steps = noted_by(client)
                connecting = asyncio.ensure_future(client.connect(url, auth=auth))
                await deciding.wait()
                await sio.emit("news", 2)
                decide.set()
                await asyncio.wait([connecting])
                await eventually(functools.partial(operator.eq, steps, heard), what=str(heard))
                connecting.exception()
                await client.shutdown()

    asyncio.run(main())


def test_always_connect_lets_the_connect_handler_talk_to_its_client() -> None:
    """It may even ask it something."""
    sio = Server(always_connect=True)
    answers: list[Any] = []

    @sio.event
    async def connect(sid: str, environ: Any) -> None:
        answers.append(await sio.call("who are you", to=sid, timeout=5))

    async def main() -> None:
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            client = socketio.AsyncClient(http_session=session, handle_sigint=False)
            client.on("who are you", lambda: "me")
            await client.connect(url)
            await eventually(lambda: answers == ["me"])
            await client.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["sid", "sid and reason", "optional reason"])
def test_disconnect_handlers_of_every_signature_run_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also when they raise TypeError, and the reason is python-socketio's."""
    sio = Server()
    ended: list[Any] = []

    def one(sid: str) -> None:
        ended.append("?")
        raise TypeError("as planned")

    def two(sid: str, reason: str) -> None:
        ended.append(reason)
        raise TypeError("as planned")

    async def three(sid: str, reason: str = "none") -> None:
        ended.append(reason)
        raise TypeError("as planned")

    handlers: dict[str, Callable[..., Any]] = {"sid": one, "sid and reason": two, "optional reason": three}
    sio.on("disconnect", handlers[kind])

    async def main(client: Any) -> None:
        await client.disconnect()
        await eventually(lambda: ended)
        await eventually(lambda: not sio.manager.directory.spaces)

    run(sio, main)
    # The client may close its connection before it has said that it leaves.
    assert len(ended) == 1
    assert ended[0] in (["?"] if kind == "sid" else ["client disconnect", "transport close"])
    [record] = [record for record in caplog.records if record.exc_info]
    assert (record.getMessage(), record.__dict__["event"]) == ("event handler failed", "disconnect")


def test_in_the_disconnect_handler_the_client_is_still_known() -> None:
    """Its rooms, session and environ; it is no longer connected."""
    sio = Server()
    seen: list[Any] = []

    @sio.event
    async def connect(sid: str, environ: Any) -> None:
        await sio.save_session(sid, {"name": "Ann"})
        await sio.enter_room(sid, "room")

    @sio.event
    async def disconnect(sid: str, reason: str) -> None:
        environ = sio.get_environ(sid)
        assert environ is not None
        seen.append([sio.rooms(sid), await sio.get_session(sid), environ["REQUEST_METHOD"], sio.transport(sid)])
        seen.append(sio.manager.is_connected(sid, "/"))

    async def main(client: Any) -> None:
        sid = client.get_sid()
        await client.disconnect()
        await eventually(lambda: len(seen) == 2)
        assert seen == [[[sid, "room"], {"name": "Ann"}, "GET", "websocket"], False]
        await eventually(lambda: not sio.manager.directory.spaces)
        with pytest.raises(KeyError, match="is not connected to /"):
            await sio.get_session(sid)

    run(sio, main, transports=["websocket"])


def test_handlers_of_one_client_overlap_unless_they_are_ordered() -> None:
    """python-socketio's `async_handlers=False` is another word for `ordered`; acknowledgements never wait."""
    for options, expected in (
        ({}, ["begin 1", "begin 2", "end 2", "end 1"]),
        ({"ordered": True}, ["begin 1", "end 1", "begin 2", "end 2"]),
        ({"async_handlers": False}, ["begin 1", "end 1", "begin 2", "end 2"]),
    ):
        sio = Server(**options)
        steps: list[str] = []

        @sio.event
        async def work(sid: str, number: int, sio: Server = sio, steps: list[str] = steps) -> None:
            steps.append(f"begin {number}")
            # The first takes longer: it asks the client, and a turn more.
            await sio.call("ready?", to=sid)
            if number == 1:
                await sio.call("ready?", to=sid)
            steps.append(f"end {number}")

        async def main(client: Any, steps: list[str] = steps) -> None:
            client.on("ready?", lambda: True)
            await client.emit("work", 1)
            await client.emit("work", 2)
            await eventually(lambda: len(steps) == 4)

        run(sio, main)
        assert steps == expected


def test_ordered_events_that_came_before_the_end_are_handled_before_it() -> None:
    """The disconnect handler comes last, for each client by itself."""
    sio = Server(ordered=True)
    steps: list[Any] = []

    @sio.event
    async def work(sid: str, number: int) -> None:
        await asyncio.sleep(0)
        steps.append(number)

    sio.on("disconnect", lambda sid, reason: steps.append("end"))

    async def main() -> None:
        async with talking_to(sio) as client:
            await client.connect()
            await client.say(*[f'2["work",{number}]' for number in range(20)], "1")
            await eventually(lambda: "end" in steps)
            assert steps == [*range(20), "end"]

    asyncio.run(main())


# Emitting


def test_emit_reaches_whom_it_is_for() -> None:
    """`to`, `room`, lists of them, `skip_sid` as one and several, `except_rooms`."""
    sio = Server()

    async def main(one: Any, two: Any) -> None:
        a, b = one.get_sid(), two.get_sid()
        await sio.enter_room(a, "red")
        await sio.enter_room(b, "blue")
        await sio.emit("1 all")
        await sio.emit("2 a", to=a)
        await sio.emit("3 b", room=b)
        await sio.emit("4 red", to="red")
        await sio.emit("5 both", to=["red", "blue"])
        await sio.emit("6 not a", skip_sid=a)
        await sio.emit("7 nobody", skip_sid=[a, b])
        await sio.emit("8 not blue", except_rooms="blue")
        await sio.emit("9 nobody", to=[])
        await sio.emit("10 nobody", to="no such room")
        await sio.emit("11 all", to="")
        await sio.emit("12 volatile", volatile=True)
        await sio.send("13 message", to=a)
        await sio.emit("last")
        await eventually(lambda: ("last",) in one.heard and ("last",) in two.heard)
        names_a = [event[0] if event[0] != "message" else event[1] for event in one.heard]
        names_b = [event[0] for event in two.heard]
        assert names_a == [
            "1 all",
            "2 a",
            "4 red",
            "5 both",
            "8 not blue",
            "11 all",
            "12 volatile",
            "13 message",
            "last",
        ]
        assert names_b == ["1 all", "3 b", "5 both", "6 not a", "11 all", "12 volatile", "last"]

    run(sio, main, count=2)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_data_of_every_documented_kind(transport: str) -> None:
    """Text, bytes, lists, dictionaries, several arguments in a tuple, none; bytes anywhere in them."""
    sio = Server()
    payloads: list[Any] = ["text", b"bytes", [1, b"2"], {"a": {"b": b"c"}}, 7, 1.5, True, [], {}, "é😀"]

    async def main(client: Any) -> None:
        for payload in payloads:
            await sio.emit("x", payload)
        await sio.emit("x", None)
        await sio.emit("x", (1, b"2", [3]))
        await sio.emit("x", ((1, b"2"),))
        expected = [("x", payload) for payload in payloads] + [("x",), ("x", 1, b"2", [3]), ("x", [1, b"2"])]
        await eventually(lambda: len(client.heard) == len(expected))
        assert client.heard == expected

    run(sio, main, transports=[transport])


def test_callbacks_and_call_get_the_clients_acknowledgement() -> None:
    """None, one value or a tuple; a callback may be a coroutine function."""
    sio = Server()
    got: list[Any] = []

    async def callback(*data: Any) -> None:
        got.append(data)

    async def main(client: Any) -> None:
        client.on("one", lambda data: data)
        client.on("two", lambda: (1, b"2"))
        client.on("none", lambda: None)
        sid = client.get_sid()
        assert await sio.call("one", "x", to=sid) == "x"
        assert await sio.call("two", sid=sid) == (1, b"2")
        assert await sio.call("none", to=sid) is None
        await sio.emit("one", "y", to=sid, callback=callback)
        await sio.emit("one", "z", callback=lambda data: got.append(data))
        await eventually(lambda: got == [("y",), "z"])
        with pytest.raises(socketio.exceptions.TimeoutError):
            await sio.call("no answer", to="nobody", timeout=0.01)
        assert set(sio.manager.callbacks.get(sid, {})) <= {0}
        with pytest.raises(ValueError, match="one client"):
            await sio.call("one", "x")

    run(sio, main)


def test_a_callback_that_fails_or_does_not_fit_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    """The one is logged with its traceback, the other, which is the client's doing, without."""
    sio = Server()

    def fails(data: Any) -> None:
        raise RuntimeError("as planned")

    async def main(client: Any) -> None:
        client.on("one", lambda: 1)
        await sio.emit("one", callback=fails)
        await sio.emit("one", callback=lambda: None)
        assert await sio.call("one", to=client.get_sid()) == 1
        await eventually(lambda: len(caplog.records) >= 2)

    run(sio, main)
    told = [(record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    assert ("callback of an acknowledgement failed", True) in told
    assert ("acknowledgement ignored: the callback takes other arguments", False) in told


def test_many_can_be_asked_at_once() -> None:
    """`broadcast_call` brings each answer by its sid, and names who gave none."""
    sio = Server()

    async def main(one: Any, two: Any) -> None:
        a, b = one.get_sid(), two.get_sid()
        one.on("vote", lambda about: f"yes to {about}")
        two.on("vote", lambda about: ("no", about))
        answers = await sio.broadcast_call("vote", "tea", timeout=5)
        assert answers.given == {a: "yes to tea", b: ("no", "tea")}
        assert answers.complete

        async def leave(about: str) -> None:
            await two.disconnect()

        two.on("vote", leave)
        answers = await sio.broadcast_call("vote", "tea", timeout=30)
        assert (answers.given, answers.missing, answers.complete) == ({a: "yes to tea"}, (b,), False)
        assert (await sio.broadcast_call("vote", "tea", to="nobody")).complete

    run(sio, main, count=2)


def test_a_broadcast_call_ends_when_its_time_is_over() -> None:
    """Whoever has not answered by then is missing; an answer that comes later is nothing."""
    sio = Server()
    answering = asyncio.Event()

    async def main(client: Any) -> None:
        async def vote() -> str:
            await answering.wait()
            return "late"

        client.on("vote", vote)
        answers = await sio.broadcast_call("vote", timeout=0.05)
        assert (answers.given, answers.missing) == ({}, (client.get_sid(),))
        answering.set()
        client.on("again", lambda: 1)
        assert await sio.call("again", to=client.get_sid()) == 1

    run(sio, main)


def test_data_that_cannot_be_sent_is_an_error_of_who_emits(caplog: pytest.LogCaptureFixture) -> None:
    """And an answer that cannot be sent one of its handler; the client is served on."""
    sio = Server()

    @sio.event
    async def bad(sid: str) -> Any:
        return object()

    sio.on("good", lambda sid: 1)

    async def main(client: Any) -> None:
        with pytest.raises(TypeError):
            await sio.emit("x", object())
        await client.emit("bad", callback=lambda *_: None)
        assert await client.call("good") == 1

    run(sio, main)
    assert [record.__dict__["event"] for record in caplog.records if record.exc_info] == ["bad"]


def test_a_handler_that_emits_without_end_does_not_cut_off_its_client() -> None:
    """Much more than may wait for a client, in one go; python-socketio gives way at each emit."""
    sio = Server(slow_consumer_bytes=1_000_000)

    @sio.event
    async def flood(sid: str) -> None:
        for _ in range(400):
            await sio.emit("x", "x" * 20_000, to=sid)
        await sio.emit("end", to=sid)

    async def main(client: Any) -> None:
        await client.emit("flood")
        await eventually(lambda: client.heard and client.heard[-1] == ("end",))
        assert len(client.heard) == 401

    run(sio, main, transports=["websocket"])


# Rooms


def test_rooms_as_documented() -> None:
    """Enter, leave, close, list; a client's own room is its own."""
    sio = Server()

    async def main(one: Any, two: Any) -> None:
        a, b = one.get_sid(), two.get_sid()
        await sio.enter_room(a, "red")
        await sio.enter_room(b, "red")
        assert sio.rooms(a) == [a, "red"]
        assert dict(sio.manager.get_participants("/", "red")) == {a: one.eio.sid, b: two.eio.sid}
        await sio.leave_room(a, "red")
        assert sio.rooms(a) == [a]
        await sio.close_room("red")
        assert sio.rooms(b) == [b]
        for error in (sio.enter_room(a, b), sio.close_room(b), sio.enter_room("nobody", "red")):
            with pytest.raises(ValueError, match=r"sid room|not connected"):
                await error
        await sio.leave_room("nobody", "red")
        assert sio.rooms("nobody") == []

    run(sio, main, count=2)


# Namespaces


class Chat(socketio.AsyncNamespace):  # type: ignore[misc]
    """As the documentation shows one."""

    async def on_connect(self, sid: str, environ: Any) -> None:
        await self.save_session(sid, {"name": "Ann"})

    async def on_say(self, sid: str, text: str) -> str:
        async with self.session(sid) as session:
            session["said"] = text
        await self.enter_room(sid, "room")
        await self.emit("said", text, room="room")
        return str((await self.get_session(sid))["name"])

    def on_rooms(self, sid: str) -> list[str]:
        return self.rooms(sid)  # type: ignore[no-any-return]

    async def on_bye(self, sid: str) -> None:
        await self.disconnect(sid)


def test_class_based_namespaces() -> None:
    """Their methods are handlers, and what they call is for their namespace."""
    sio = Server()
    sio.register_namespace(Chat("/chat"))

    async def main(client: Any) -> None:
        sid = client.get_sid("/chat")
        assert await client.call("say", "hi", namespace="/chat") == "Ann"
        await eventually(lambda: client.heard == [("said", "hi")])
        assert await client.call("rooms", namespace="/chat") == [sid, "room"]
        assert await sio.get_session(sid, namespace="/chat") == {"name": "Ann", "said": "hi"}
        assert await client.call("no such method", namespace="/chat") is None
        await client.emit("bye", namespace="/chat")
        await eventually(lambda: not sio.manager.directory.spaces)

    run(sio, main, namespaces=["/chat"])


def test_a_namespace_may_be_registered_while_clients_are_there() -> None:
    """And a handler be replaced: the new one gets the next event."""
    sio = Server()
    sio.on("x", lambda sid: "old")

    async def main(client: Any) -> None:
        assert await client.call("x") == "old"
        sio.on("x", lambda sid: "new")
        assert await client.call("x") == "new"
        sio.handlers["/"]["x"] = lambda sid: "behind its back"
        sio.forget_routes()
        assert await client.call("x") == "behind its back"

    run(sio, main)


def test_what_is_no_namespace_is_refused_at_once() -> None:
    """As python-socketio does."""
    with pytest.raises(ValueError, match="Not a namespace instance"):
        Server().register_namespace(object())
    with pytest.raises(ValueError, match="Not a valid namespace class"):
        Server().register_namespace(socketio.Namespace("/"))


# User sessions


def test_user_sessions_are_each_namespaces_own() -> None:
    """`save_session`, `get_session` and the context manager."""
    sio = Server(namespaces="*")

    async def main(client: Any) -> None:
        sid, other = client.get_sid(), client.get_sid("/other")
        assert await sio.get_session(sid) == {}
        await sio.save_session(sid, {"a": 1})
        async with sio.session(sid) as session:
            session["b"] = 2
        async with sio.session(other, namespace="/other") as session:
            session["c"] = 3
        assert await sio.get_session(sid) == {"a": 1, "b": 2}
        assert await sio.get_session(other, namespace="/other") == {"c": 3}
        with pytest.raises(KeyError):
            await sio.save_session("nobody", {})

    run(sio, main, namespaces=["/", "/other"])


# Disconnecting, background tasks, the rest


def test_disconnect_runs_the_handler_and_tells_the_client() -> None:
    """What was emitted before arrives before; a client that is not there is no error."""
    sio = Server()
    reasons: list[str] = []
    sio.on("disconnect", lambda sid, reason: reasons.append(reason))

    async def main(client: Any) -> None:
        sid = client.get_sid()
        for number in range(50):
            await sio.emit("x", number, to=sid)
        await sio.disconnect(sid)
        await eventually(lambda: not client.connected)
        assert client.heard == [("x", number) for number in range(50)]
        assert reasons == ["server disconnect"]
        await sio.disconnect(sid)
        await sio.disconnect(sid, ignore_queue=True)
        assert reasons == ["server disconnect"]

    run(sio, main)


def test_a_handler_may_disconnect_its_own_client() -> None:
    """In connect too, with `always_connect`; the handlers end as if nothing were."""
    sio = Server(always_connect=True)
    steps: list[str] = []

    @sio.event
    async def connect(sid: str, environ: Any) -> bool:
        await sio.disconnect(sid)
        steps.append("connect ended")
        return False

    sio.on("disconnect", lambda sid, reason: steps.append(reason))

    async def main() -> None:
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            client = socketio.AsyncClient(http_session=session, handle_sigint=False, reconnection=False)
            await client.connect(url)
            await eventually(lambda: not client.connected)
            await client.shutdown()
        assert steps == ["server disconnect", "connect ended"]

    asyncio.run(main())


def test_background_tasks_and_sleep() -> None:
    """`start_background_task` returns the task."""

    async def main() -> None:
        sio = Server()

        async def work(number: int, *, more: int) -> int:
            await sio.sleep(0)
            return number + more

        assert await sio.start_background_task(work, 1, more=2) == 3
        await sio.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]])
def test_transport_says_how_a_client_is_connected(transports: list[str]) -> None:
    """KeyError for one that is not."""
    sio = Server()

    async def main(client: Any) -> None:
        assert sio.transport(client.get_sid()) == transports[0]
        with pytest.raises(KeyError):
            sio.transport("nobody")

    run(sio, main, transports=transports)


def test_the_msgpack_serializer() -> None:
    """Events, acknowledgements both ways, bytes and refusals, in binary frames."""
    sio = Server(serializer="msgpack")

    @sio.event
    async def echo(sid: str, *data: Any) -> Any:
        return data

    @sio.on("connect", namespace="/closed")
    def connect(sid: str, environ: Any) -> bool:
        return False

    async def main(client: Any) -> None:
        assert await client.call("echo", {"a": b"b", "c": [1, None]}) == {"a": b"b", "c": [1, None]}
        client.on("question", lambda data: data)
        assert await sio.call("question", b"x", to=client.get_sid()) == b"x"
        await sio.emit("news", ({"n": 1}, b"2"))
        await eventually(lambda: client.heard == [("news", {"n": 1}, b"2")])

    run(sio, main, serializer="msgpack")


def test_custom_json_and_packet_classes() -> None:
    """Both on one server; the client has to use the same."""

    class Upper(socketio.packet.Packet):  # type: ignore[misc]
        def encode(self) -> Any:
            encoded = super().encode()
            return encoded.upper() if self.packet_type == socketio.packet.EVENT else encoded

    sio = Server(serializer=Upper)

    async def main(client: Any) -> None:
        await sio.emit("news", "text")
        await eventually(lambda: client.heard == [("NEWS", "TEXT")])

    run(sio, main)


def test_python_socketios_log_is_there_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    """`logger=True` writes a line for each event, either way."""
    mine = logging.getLogger("mine")
    mine.setLevel(logging.INFO)
    sio = Server(logger=mine)
    sio.on("x", lambda sid: 1)

    async def main(client: Any) -> None:
        await client.call("x")
        await sio.emit("news")

    run(sio, main)
    lines = [record.getMessage() for record in caplog.records if record.name == "mine"]
    assert 'emitting event "news" to all [/]' in lines
    assert any(line.startswith('received event "x" from ') for line in lines)


def test_what_is_not_supported_says_so() -> None:
    """At once, and by name."""
    for options in ({"async_mode": "tornado"}, {"no_such_option": 1}, {"client_manager": object()}):
        with pytest.raises(UsageError, match="|".join((*options, "tornado"))):
            Server(**options)


def test_cookies_and_origins_are_the_engines() -> None:
    """They are given to Server, as to socketio.AsyncServer."""

    async def main() -> None:
        sio = Server(cookie="io", cors_allowed_origins=["https://example.org"])
        app = web.Application()
        sio.attach(app)
        async with node_here(sio) as url, aiohttp.ClientSession() as session:
            address = f"{url}/socket.io/?EIO=4&transport=polling"
            async with session.get(address, headers={"Origin": "https://example.org"}) as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
                assert "io" in answer.cookies
            async with session.get(address, headers={"Origin": "https://evil.example"}) as answer:
                assert answer.status == 400

    asyncio.run(main())
