"""The environ of a session: python-socketio's, made when somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from engineio.async_drivers.aiohttp import translate_request

from node.environ import Environ, head_of
from tests.support.engine import Heard, serving

HEAD = (
    b"GET /socket.io/?EIO=4&transport=websocket&name=%C3%A9%20x HTTP/1.1\r\nHost: a:1\r\nX-Two: 1\r\nX-Two: 2\r\n"
    b"Cookie: c=d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Forwarded-Proto: https\r\n\r\n"
)


def in_loop(test: Callable[[], None]) -> None:
    async def main() -> None:
        test()

    asyncio.run(main())


LOOKS: dict[str, Callable[[Any], object]] = {
    "item": lambda environ: environ["HTTP_HOST"] == "a:1",
    "get": lambda environ: environ.get("HTTP_X_TWO") == "1,2",
    "in": lambda environ: "HTTP_COOKIE" in environ,
    "len": lambda environ: len(environ) > 20,
    "bool": bool,
    "iteration": lambda environ: "PATH_INFO" in list(environ),
    "reversed": lambda environ: "PATH_INFO" in list(reversed(environ)),
    "items": lambda environ: ("wsgi.url_scheme", "https") in environ.items(),
    "keys": lambda environ: "PATH_INFO" in environ.keys(),  # noqa: SIM118
    "values": lambda environ: "/socket.io/" in environ.values(),
    "a copy": lambda environ: environ.copy()["SERVER_SOFTWARE"] == "aiohttp",
    "dict()": lambda environ: dict(environ)["REQUEST_METHOD"] == "GET",
    "**": lambda environ: {**environ}["SCRIPT_NAME"] == "",
    "|": lambda environ: (environ | {"mine": 1})["HTTP_HOST"] == "a:1",
    "equality": lambda environ: environ != {},
    "repr": lambda environ: "HTTP_HOST" in repr(environ),
    "pop": lambda environ: environ.pop("HTTP_HOST") == "a:1" and "HTTP_HOST" not in environ,
    "setdefault": lambda environ: environ.setdefault("HTTP_HOST", "b") == "a:1",
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_it_is_there_whichever_way_one_looks(look: Callable[[Any], object]) -> None:
    """A dict, in every way that a dict can be looked into."""

    def test() -> None:
        environ = Environ(HEAD, "192.0.2.1")
        assert isinstance(environ, dict)
        assert look(environ)

    in_loop(test)


def test_what_is_put_into_it_stays(caplog: pytest.LogCaptureFixture) -> None:
    """Also if it was the first to be done with it."""

    def test() -> None:
        environ = Environ(HEAD, None)
        environ["mine"] = 1
        assert (environ["mine"], environ["HTTP_HOST"]) == (1, "a:1")
        del environ["HTTP_HOST"]
        environ.update(other=2)
        environ |= {"third": 3}
        assert "HTTP_HOST" not in environ
        assert (environ["other"], environ["third"]) == (2, 3)

    in_loop(test)


def test_the_request_in_it_answers_what_applications_ask() -> None:
    """An `aiohttp.web.Request`, as python-socketio's documentation says."""

    def test() -> None:
        request = Environ(HEAD, "192.0.2.1")["aiohttp.request"]
        assert isinstance(request, web.Request)
        assert request.remote == "192.0.2.1"
        assert request.query["name"] == "é x"
        assert request.cookies == {"c": "d"}
        assert request.headers["host"] == "a:1"
        assert request.path == "/socket.io/"

    in_loop(test)


def test_it_is_what_python_socketio_makes_of_the_same_request() -> None:
    """Apart from objects that belong to the connection, and from REMOTE_ADDR, which upstream always says is us."""

    async def main() -> None:
        pairs = []

        async def handle(request: web.Request) -> web.Response:
            pairs.append((translate_request(request), dict(Environ(head_of(request), request.remote))))
            return web.Response()

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as http:
            for target in ("/socket.io/?a=%20b&c", "/a%2Fb", "/?x=é"):
                await http.get(url + target, headers={"X-A": "1", "Content-Type": "text/x"})
        await runner.cleanup()
        assert len(pairs) == 3
        for theirs, ours in pairs:
            for mine in ("aiohttp.request", "wsgi.input", "wsgi.errors"):
                assert (theirs.pop(mine) is None) == (ours.pop(mine) is None)
            assert ours == theirs

    asyncio.run(main())


def test_a_session_has_one_environ_and_keeps_it_after_its_end() -> None:
    """Disconnect handlers look into it."""

    async def main() -> None:
        heard = Heard()
        async with serving(heard) as (engine, url), aiohttp.ClientSession() as http:
            async with http.ws_connect(f"{url}/engine.io/?EIO=4&transport=websocket&token=t") as socket:
                await socket.receive()
                [session] = engine.sessions.values()
                environ = session.environ
                environ["user"] = "ann"
            assert session.environ is environ
            assert environ["QUERY_STRING"].endswith("token=t")
            assert environ["REMOTE_ADDR"] == "127.0.0.1"

    asyncio.run(main())
