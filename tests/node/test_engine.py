"""The engine's options and hooks, and that whatever fails in them leaves no session half open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
import engineio
import pytest

from cluster.closing import CloseCode
from cluster.errors import UsageError
from node import upgrade
from node.engine import Engine
from node.session import Session
from tests.support.engine import PATH, Heard, message, opened, polled_session, serving
from tests.support.waiting import eventually

CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"async_mode": "asgi"}, "async_mode='asgi' is not supported"),
        ({"monitor_clients": False}, "monitor_clients=False is not supported"),
        ({"async_handlers": True}, "async_handlers=True is not supported"),
        ({"pingInterval": 5}, "pingInterval is no option of this server"),
        ({"transports": ["webtransport"]}, "transports=.* allowed are polling and websocket"),
        ({"transports": []}, "transports=.* allowed are polling and websocket"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    """python-engineio ignores what it does not know."""
    with pytest.raises(UsageError, match=said):
        Engine(**options)


def test_every_option_of_python_engineio_is_known() -> None:
    """An application that gives them moves without a change."""
    Engine(
        async_mode="aiohttp", ping_interval=(30, 2), ping_timeout=9, max_http_buffer_size=5000, allow_upgrades=False,
        http_compression=False, compression_threshold=1, cookie=None, cors_allowed_origins=[], cors_credentials=False,
        logger=True, json=None, async_handlers=False, monitor_clients=None, transports="polling",
    )  # fmt: skip


def test_the_reasons_are_python_engineios() -> None:
    """Disconnect handlers compare with them."""
    theirs = {name: value for name, value in vars(engineio.AsyncServer.reason).items() if name.isupper()}
    assert {name: value for name, value in vars(Engine.reason).items() if name.isupper()} == theirs


def test_a_grace_period_is_promised_and_not_used_up() -> None:
    """`ping_interval=(interval, grace)`."""

    async def main() -> None:
        async with serving(ping_interval=(30, 2)) as (_, url), aiohttp.ClientSession() as http:
            answer = await http.get(f"{url}{PATH}polling")
            assert opened(await answer.text())["pingInterval"] == 32000

    asyncio.run(main())


COOKIES: dict[str, tuple[Any, str]] = {
    "a name": ("io", "io={sid}; path=/; SameSite=Lax"),
    "attributes": ({"name": "mine", "path": "/x", "HttpOnly": True, "Secure": False}, "mine={sid}; path=/x; HttpOnly"),
    "a callable": ({"name": "io", "Max-Age": lambda: 7, "Domain": None}, "io={sid}; Max-Age=7"),
    "no name": ({"path": "/"}, "io={sid}; path=/"),
}


@pytest.mark.parametrize("case", COOKIES)
def test_a_cookie_with_the_sid_is_set_when_asked_for(case: str) -> None:
    """On both transports, once."""
    cookie, expected = COOKIES[case]

    async def main() -> None:
        async with serving(cookie=cookie) as (_, url), aiohttp.ClientSession() as http:
            async with http.get(f"{url}{PATH}polling") as answer:
                sid = opened(await answer.text())["sid"]
                assert answer.headers["Set-Cookie"] == expected.format(sid=sid)
            async with http.post(f"{url}{PATH}polling&sid={sid}", data="4x") as answer:
                assert "Set-Cookie" not in answer.headers
            async with http.ws_connect(f"{url}{PATH}websocket") as socket:
                sid = opened(await socket.receive_str())["sid"]
                assert socket._response.headers["Set-Cookie"] == expected.format(sid=sid)

    asyncio.run(main())


async def _slow_no(environ: Mapping[str, Any]) -> bool:
    await asyncio.sleep(0)
    return environ.get("HTTP_X_TOKEN") == "yes"


def _failing(environ: Mapping[str, Any]) -> bool:
    raise RuntimeError("as planned")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (lambda environ: False, "Forbidden"),
        (_slow_no, "Forbidden"),
        (lambda environ: "go away", "go away"),
        (_failing, "Forbidden"),
    ],
    ids=["sync", "async", "with words", "failing"],
)
def test_a_hook_may_refuse_a_session(hook: Any, words: str, transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """`allow_request`: 403 and code 4; one that fails refuses, and is logged."""

    async def main() -> None:
        heard = Heard()
        async with serving(heard, allow_request=hook) as (engine, url), aiohttp.ClientSession() as http:
            headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if transport == "websocket" else {}
            async with http.get(f"{url}{PATH}{transport}", headers=headers) as answer:
                assert (answer.status, await answer.json()) == (403, {"code": 4, "message": words})
            assert (heard.sids, engine.connections) == ([], 0)

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["allow_request failed"] * (hook is _failing)


def test_a_hook_that_allows_is_asked_once_for_a_session() -> None:
    """Not again for each request of it."""
    asked: list[str] = []

    async def allow(environ: Mapping[str, Any]) -> bool:
        asked.append(environ["QUERY_STRING"])
        return await _slow_no(environ)

    async def main() -> None:
        http = aiohttp.ClientSession(headers={"X-Token": "yes"})
        async with serving(allow_request=allow) as (_, url), http:
            address = await polled_session(http, url)
            async with http.post(address, data="4x") as answer:
                assert answer.status == 200
            assert len(asked) == 1

    asyncio.run(main())


@pytest.mark.parametrize("target", [f"{PATH}polling", f"{PATH}websocket"])
def test_a_page_of_another_origin_gets_nothing(target: str, caplog: pytest.LogCaptureFixture) -> None:
    """By default; WebSockets too."""
    caplog.set_level(logging.INFO, "node")

    async def main() -> None:
        async with serving() as (engine, url), aiohttp.ClientSession() as http:
            headers = {"Origin": "http://evil.example", "Upgrade": "websocket", "Connection": "Upgrade"}
            async with http.get(url + target, headers=headers) as answer:
                assert answer.status == 400
                assert (await answer.json())["message"] == "http://evil.example is not an accepted origin."
            assert engine.connections == 0

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["request refused: another origin"]


def test_a_rule_for_origins_that_fails_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """And is logged."""

    async def main() -> None:
        async with serving(cors_allowed_origins=lambda origin: 1 / 0) as (_, url), aiohttp.ClientSession() as http:
            answer = await http.get(f"{url}{PATH}polling", headers={"Origin": "http://a"})
            assert answer.status == 400

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["cors_allowed_origins failed"]


def test_without_upgrades_none_is_offered_and_none_is_done() -> None:
    """`allow_upgrades=False`; the session polls on."""

    async def main() -> None:
        async with serving(allow_upgrades=False) as (_, url), aiohttp.ClientSession() as http:
            async with http.get(f"{url}{PATH}polling") as answer:
                said = opened(await answer.text())
            assert said["upgrades"] == []
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{url}{PATH}websocket&sid={said['sid']}")
            assert refused.value.status == 400
            address = f"{url}{PATH}polling&sid={said['sid']}"
            async with http.post(address, data="4x") as answer:
                assert answer.status == 200

    asyncio.run(main())


@pytest.mark.parametrize("transports", ["polling", ["websocket"]])
def test_only_the_transports_asked_for_are_served(transports: Any) -> None:
    """Code 0 for the other."""

    async def main() -> None:
        async with serving(transports=transports) as (_, url), aiohttp.ClientSession() as http:
            other = "websocket" if transports == "polling" else "polling"
            async with http.get(f"{url}{PATH}{other}") as answer:
                assert (answer.status, (await answer.json())["code"]) == (400, 0)
            if transports == "polling":
                async with http.get(f"{url}{PATH}polling") as answer:
                    assert opened(await answer.text())["upgrades"] == []

    asyncio.run(main())


def test_an_upgrade_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The WebSocket is closed; the session polls on, and may try again."""
    monkeypatch.setattr(upgrade, "UPGRADE_TIMEOUT_S", 0.05)

    async def main() -> None:
        async with serving() as (engine, url), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            socket = await http.ws_connect(address.replace("polling", "websocket"))
            await socket.send_str("2probe")
            assert await socket.receive_str() == "3probe"
            assert (await socket.receive()).type in CLOSED
            [session] = engine.sessions.values()
            assert session.polling is not None
            assert session.polling.probe is None
            async with http.post(address, data="4x") as answer:
                assert answer.status == 200

    asyncio.run(main())


class Failing(Heard):
    """A handler that fails where it is told to: a fault of ours."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def opened(self, session: Session) -> None:
        super().opened(session)
        if self.where == "opened":
            raise RuntimeError("as planned")

    def received(self, session: Session, data: str | bytes) -> None:
        if self.where == "received":
            raise RuntimeError("as planned")
        super().received(session, data)

    def ended(self, session: Session, reason: str) -> None:
        super().ended(session, reason)
        if self.where == "ended":
            raise RuntimeError("as planned")


@pytest.mark.parametrize("where", ["opened", "received", "ended"])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_handler_that_fails_leaves_no_session_half_open(
    where: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log; the end is told once; nothing is left of the session."""

    async def main() -> None:
        heard = Failing(where)
        async with serving(heard) as (engine, url), aiohttp.ClientSession() as http:
            if transport == "websocket":
                async with http.ws_connect(f"{url}{PATH}websocket") as socket:
                    await socket.send_str("4x")
                    await socket.send_str("1")
                    while (await socket.receive()).type not in CLOSED:
                        pass
                    await eventually(lambda: not engine.sessions and not engine.lingering)
            else:
                address = await polled_session(http, url)
                for body in ("4x", "1"):
                    async with http.post(address, data=body) as answer:
                        assert answer.status in (200, 400)
                assert not engine.sessions
                assert not engine.lingering
            assert len(heard.reasons) == 1
            assert len(engine.wheel) == 0

    asyncio.run(main())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_disconnect_sends_what_waits_and_then_says_goodbye() -> None:
    """Both transports; and a client that does not fetch it is not waited for without limit."""

    async def main() -> None:
        heard = Heard()
        async with serving(heard) as (engine, url), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            async with http.ws_connect(f"{url}{PATH}websocket") as socket:
                await socket.receive_str()
                for sid in list(engine.sessions):
                    await engine.send(sid, "last")
                    await engine.send(sid, b"words")
                await engine.disconnect()
                assert engine.connections == 0
                assert await socket.receive_str() == "4last"
                assert await socket.receive_bytes() == b"words"
                assert await socket.receive_str() == "1"
                assert (await socket.receive()).data == aiohttp.WSCloseCode.OK
            async with http.get(address) as answer:
                assert await answer.text() == "4last\x1ebd29yZHM=\x1e1"
            async with http.get(address) as answer:
                assert answer.status == 400
            assert heard.reasons == ["server disconnect"] * 2
            await eventually(lambda: not engine.lingering)
            await engine.disconnect("nobody")
            await engine.send("nobody", "x")

    asyncio.run(main())


def test_users_have_a_session_of_their_own() -> None:
    """`get_session`, `save_session`, `session`, `transport`; KeyError for one that is not there."""

    async def main() -> None:
        async with serving() as (engine, url), aiohttp.ClientSession() as http:
            await polled_session(http, url)
            [sid] = engine.sessions
            assert engine.sessions[sid].data is None, "not before somebody asks"
            async with engine.session(sid) as data:
                data["name"] = "ann"
            assert await engine.get_session(sid) == {"name": "ann"}
            await engine.save_session(sid, {"name": "bob"})
            assert await engine.get_session(sid) == {"name": "bob"}
            assert engine.transport(sid) == "polling"
            for ask in (engine.get_session("nobody"), engine.save_session("nobody", {})):
                with pytest.raises(KeyError):
                    await ask
            with pytest.raises(KeyError):
                engine.transport("nobody")

    asyncio.run(main())


def test_flush_waits_until_everything_has_left() -> None:
    """Also for a polling client, which has to fetch it."""

    async def main() -> None:
        async with serving() as (engine, url), aiohttp.ClientSession() as http:
            address = await polled_session(http, url)
            [session] = engine.sessions.values()
            await session.flush()
            session.send(message("x"))
            flushing = asyncio.ensure_future(session.flush())
            await asyncio.sleep(0)
            assert not flushing.done()
            async with http.get(address) as answer:
                assert await answer.text() == "4x"
            await flushing
            async with http.ws_connect(f"{url}{PATH}websocket") as socket:
                await socket.receive_str()
                on_websocket = engine.sessions[list(engine.sessions)[-1]]
                on_websocket.send(message("y"))
                assert on_websocket.waiting_bytes
                await on_websocket.flush()
                assert on_websocket.waiting_bytes == 0

    asyncio.run(main())


def test_a_body_that_does_not_end_is_not_waited_for_without_limit() -> None:
    """Not longer than a client may be silent; its session ends."""

    async def main() -> None:
        heard = Heard()
        async with serving(heard, ping_interval=0.05, ping_timeout=0.05) as (_, url), aiohttp.ClientSession() as http:
            target = (await polled_session(http, url)).removeprefix(url)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n4x".encode())
            async with asyncio.timeout(30):
                assert b" 400 " in await reader.readline()
            assert (len(heard.reasons), heard.messages) == (1, [])
            writer.close()

    asyncio.run(main())


def test_a_leaving_engine_refuses_new_sessions_and_serves_those_it_has() -> None:
    """503 with Retry-After, whichever transport; then 1001."""

    async def main() -> None:
        async with serving() as (engine, url), aiohttp.ClientSession() as http:
            socket = await http.ws_connect(f"{url}{PATH}websocket")
            await socket.receive_str()
            engine.leave()
            for transport in ("polling", "websocket"):
                headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if transport == "websocket" else {}
                async with http.get(f"{url}{PATH}{transport}", headers=headers) as answer:
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            await socket.send_str("4x")
            assert await socket.receive_str() == "4x"
            closing = asyncio.ensure_future(engine.close_all(2))
            assert (await socket.receive()).data == CloseCode.GOING_AWAY
            await socket.close()
            assert await closing == 0

    asyncio.run(main())
