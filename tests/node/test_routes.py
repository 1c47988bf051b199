"""Which handler an event gets, and how it is called."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from node import routes as routes_module
from node.routes import Cancelled, Route, Routes, awaited, bounds


def handler(*arguments: Any) -> Any:
    return arguments


def called(routes: Routes, namespace: str, event: str, *arguments: Any) -> Any:
    route = routes.find(namespace, event)
    assert route is not None
    return asyncio.run(route.call(*arguments))


def test_the_most_specific_handler_wins() -> None:
    """python-socketio's order: the event, then "*", in the namespace; then the same in the namespace "*"."""
    handlers: dict[str, dict[str, Callable[..., Any]]] = {
        "/": {"a": lambda *args: ("a", args), "*": lambda *args: ("any", args)},
        "/bare": {"connect": handler},
        "*": {"a": lambda *args: ("a anywhere", args), "*": lambda *args: ("all", args)},
    }
    routes = Routes(handlers, {})
    assert called(routes, "/", "a", "sid", 1) == ("a", ("sid", 1))
    assert called(routes, "/", "b", "sid", 1) == ("any", ("b", "sid", 1))
    assert called(routes, "/bare", "a", "sid", 1) == ("a anywhere", ("/bare", "sid", 1))
    assert called(routes, "/x", "b", "sid", 1) == ("all", ("b", "/x", "sid", 1))


def test_what_happens_is_not_for_catch_all_handlers() -> None:
    """Nor is an event that a client calls "*" anything but an event of that name."""
    routes = Routes({"/": {"*": lambda *args: args}, "*": {"connect": lambda *args: args}}, {})
    assert routes.find("/", "disconnect") is None
    assert called(routes, "/", "connect", "sid", {}) == ("/", "sid", {})
    assert called(routes, "/", "*", "sid", 1) == ("*", "sid", 1)


class Chat(socketio.AsyncNamespace):  # type: ignore[misc]
    async def on_say(self, sid: str, text: str) -> str:
        return f"{sid}: {text}"

    def on_disconnect(self, sid: str) -> str:
        return f"{sid} left"


class Everywhere(socketio.AsyncNamespace):  # type: ignore[misc]
    def on_say(self, namespace: str, sid: str, text: str) -> str:
        return f"{namespace} {sid}: {text}"


class Own(socketio.AsyncNamespace):  # type: ignore[misc]
    async def trigger_event(self, event: str, *arguments: Any) -> Any:
        return event, arguments


def test_class_based_namespaces_have_methods_for_events() -> None:
    """A function of its own wins over them; what has no method is handled by nobody, and acknowledged."""
    routes = Routes({"/chat": {"mine": handler}}, {"/chat": Chat("/chat"), "*": Everywhere("*"), "/own": Own("/own")})
    assert called(routes, "/chat", "say", "s", "hi") == "s: hi"
    assert called(routes, "/chat", "disconnect", "s", "reason") == "s left"
    assert called(routes, "/chat", "unknown", "s", "hi") is None
    assert called(routes, "/chat", "mine", "s") == ("s",)
    assert called(routes, "/x", "say", "s", "hi") == "/x s: hi"
    assert called(routes, "/own", "anything", "s", 1) == ("anything", ("s", 1))


def test_nobody_may_be_there() -> None:
    """Then there is no acknowledgement."""
    assert Routes({}, {}).find("/", "x") is None


def test_a_route_is_looked_up_once_until_something_is_registered() -> None:
    """`forget` is what registering calls."""
    handlers: dict[str, dict[str, Callable[..., Any]]] = {"/": {"a": lambda: "old"}}
    routes = Routes(handlers, {})
    assert routes.find("/", "a") is routes.find("/", "a")
    handlers["/"]["a"] = lambda: "new"
    assert called(routes, "/", "a") == "old"
    routes.forget()
    assert called(routes, "/", "a") == "new"


def test_names_that_clients_make_up_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many nor long ones."""
    monkeypatch.setattr(routes_module, "MOST_KNOWN", 3)
    routes = Routes({"/": {"*": handler}}, {})
    for number in range(10):
        routes.find("/", f"event{number}")
    assert len(routes._known) == 3
    routes.forget()
    routes.find("/", "x" * 200)
    assert len(routes._known) == 0


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: 0, (0, 0)),
        (lambda a: 0, (1, 1)),
        (lambda a, b=0: 0, (1, 2)),
        (lambda a, /, b, *, c=0: 0, (2, 2)),
        (lambda a, *rest: 0, (1, float("inf"))),
        (lambda **named: 0, (0, 0)),
        (functools.partial(lambda a, b, c: 0, 1), (2, 2)),
        (Chat("/").on_say, (2, 2)),
        (dict.fromkeys, (1, 2)),
        (min, (0, float("inf"))),
    ],
)
def test_a_signature_says_how_many_arguments_a_handler_takes(
    function: Callable[..., Any], expected: tuple[int, float]
) -> None:
    """Built-in functions may not say; then anything goes."""
    assert bounds(function) == expected


def test_a_handler_gets_as_many_arguments_as_it_takes() -> None:
    """What was added to an event later is left out: the reason of a disconnect, a client's authentication."""

    async def main() -> None:
        assert await Route(lambda sid: sid).call("s", "reason") == "s"
        assert await Route(lambda sid, reason: (sid, reason)).call("s", "reason") == ("s", "reason")
        assert await Route(lambda sid, reason=None: (sid, reason)).call("s", "reason") == ("s", "reason")
        assert await Route(lambda *args: args).call("s", "reason") == ("s", "reason")
        assert await Route(lambda: "none").call("s", "reason") == "none"
        with pytest.raises(TypeError):
            await Route(lambda a, b, c: 0).call("s", "reason")

    asyncio.run(main())


def test_a_type_error_of_a_handler_does_not_run_it_twice() -> None:
    """python-socketio finds out by trying how many arguments it takes."""
    runs = []

    def fails(sid: str, reason: str) -> None:
        runs.append(sid)
        raise TypeError("as planned")

    with pytest.raises(TypeError, match="as planned"):
        asyncio.run(Route(fails).call("s", "reason"))
    assert runs == ["s"]


def test_a_handler_that_is_cancelled_from_within_does_not_cancel_who_calls_it() -> None:
    """But when the caller is cancelled, both are."""

    async def main() -> None:
        async def cancelled() -> None:
            raise asyncio.CancelledError

        with pytest.raises(Cancelled):
            await awaited(cancelled())
        task = asyncio.ensure_future(awaited(asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await awaited(3) == 3

    asyncio.run(main())
