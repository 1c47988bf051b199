"""Connections that were handed over and are opened without aiohttp: nobody can tell the difference."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from cluster import handoff
from cluster.handoff import Handoff
from node.adoption import Adoption
from node.arrival import finish_adopted
from node.engine import Engine
from node.shortcut import Shortcut
from tests.lb.conftest import Run
from tests.support.balancer import Caller, upgrade_request
from tests.support.engine import Heard, opened
from tests.support.handing import frame, payload_from
from tests.support.waiting import eventually

TARGET = "/engine.io/?EIO=4&transport=websocket"
POLLING = "/engine.io/?EIO=4&transport=polling"


@dataclass
class Giving:
    """A node with an engine, and the link over which the test hands it connections."""

    engine: Engine
    heard: Heard
    adoption: Adoption
    shortcuts: list[bool]
    """For each connection: whether it took the short way."""
    sock: socket.socket
    clients: list[Caller]

    async def give(self, received: bytes, cookie: str = "") -> Caller:
        """Hand over a connection from which `received` was read; return the client's end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        with server:
            given = Handoff(1, time.monotonic_ns() + 10**10, cookie, received)
            socket.send_fds(self.sock, [given.to_bytes()], [server.fileno()])
        client.setblocking(False)
        caller = Caller(*await asyncio.open_connection(sock=client))
        self.clients.append(caller)
        return caller


@asynccontextmanager
async def giving(directory: Path, *, is_short: bool = True, **options: object) -> AsyncIterator[Giving]:
    engine, heard, shortcuts = Engine(**options), Heard(), list[bool]()
    engine.handler = heard
    app = web.Application()
    engine.attach(app)
    app.on_response_prepare.append(finish_adopted)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    shortcut = Shortcut(engine.intake, engine.path)

    def watched(transport: asyncio.Transport, given: Handoff, on_end: object) -> bool:
        shortcuts.append(is_short and shortcut(transport, given, on_end))  # type: ignore[arg-type]
        return shortcuts[-1]

    async with asyncio.TaskGroup() as tasks:
        adoption = Adoption(handoff.socket_path(directory, "n0"), runner.server, tasks, watched)
        adoption.open()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(adoption.path))
        with sock:
            result = Giving(engine, heard, adoption, shortcuts, sock, [])
            try:
                yield result
            finally:
                for caller in result.clients:
                    caller.close()
                await eventually(lambda: adoption.count == 0)
                adoption.close()
                await engine.shutdown()
    await runner.cleanup()


@pytest.mark.parametrize("is_short", [True, False], ids=["short", "through aiohttp"])
def test_a_session_opens_with_the_cookies_of_both_and_what_came_early(run: Run, tmp_path: Path, is_short: bool) -> None:
    """The balancer's sticky cookie and the engine's own; its end is reported; the client's address is known."""

    async def main() -> None:
        async with giving(tmp_path, is_short=is_short, cookie="io") as node:
            early = frame(b"4first", 1) + frame(b"4second", 1)[:5]
            caller = await node.give(upgrade_request(TARGET) + early, cookie="sticky=n0; HttpOnly")
            caller.send(frame(b"4second", 1)[5:])
            head = await caller.head()
            assert b"Set-Cookie: sticky=n0; HttpOnly\r\n" in head
            assert b"Set-Cookie: io=" in head
            assert opened((await payload_from(caller.reader)).decode())["upgrades"] == []
            assert [await payload_from(caller.reader) for _ in range(2)] == [b"4first", b"4second"]
            assert node.shortcuts == [is_short]
            [session] = node.engine.sessions.values()
            assert session.remote == "127.0.0.1"
            assert session.environ["HTTP_HOST"] == "test"
            assert (node.engine.connections, node.adoption.count) == (1, 1)
            caller.close()
            await eventually(lambda: node.adoption.count == 0)
            assert node.heard.reasons == ["transport close"]

    run(main)


def test_an_upgrade_of_a_polling_session_takes_it_as_well(run: Run, tmp_path: Path) -> None:
    """The usual way of the JavaScript client."""

    async def main() -> None:
        async with giving(tmp_path) as node:
            polls = await node.give(f"GET {POLLING} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            _, body = await polls.answer()
            sid = opened(body.decode())["sid"]
            caller = await node.give(upgrade_request(f"{TARGET}&sid={sid}"))
            await caller.head()
            caller.send(frame(b"2probe", 1))
            assert await payload_from(caller.reader) == b"3probe"
            caller.send(frame(b"5", 1) + frame(b"4x", 1))
            assert await payload_from(caller.reader) == b"4x"
            assert node.shortcuts == [False, True]
            await eventually(lambda: node.adoption.count == 1)

    run(main)


REFUSED = {
    "unknown sid": (upgrade_request(f"{TARGET}&sid=abc"), b" 400 "),
    "unknown transport": (upgrade_request("/engine.io/?EIO=4&transport=x"), b" 400 "),
    "another version": (upgrade_request("/engine.io/?EIO=3&transport=websocket"), b" 400 "),
    "another origin": (upgrade_request(TARGET, Origin="http://evil.example"), b" 400 "),
    "another path": (upgrade_request("/other/?EIO=4&transport=websocket"), b" 404 "),
    "a path that begins alike": (upgrade_request("/engine.io/more?EIO=4&transport=websocket"), b" 404 "),
    "a bad key": (upgrade_request(TARGET).replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), b" 400 "),
    "another WebSocket version": (upgrade_request(TARGET).replace(b": 13", b": 8"), b" 426 "),
    "no HTTP": (b"GET / / HTTP/1.1\r\nHost x\r\n\r\n", b" 400 "),
    "HTTP/1.0": (upgrade_request(TARGET).replace(b"HTTP/1.1", b"HTTP/1.0"), b" 400 "),
    "POST": (upgrade_request(TARGET).replace(b"GET", b"POST"), b" 400 "),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_to_be_refused_is_refused_as_from_the_nodes_own_port(run: Run, tmp_path: Path, case: str) -> None:
    """aiohttp answers it, and the connection ends."""
    received, status = REFUSED[case]

    async def main() -> None:
        async with giving(tmp_path) as node:
            caller = await node.give(received)
            assert status in (await caller.rest()).partition(b"\r\n")[0]
            assert node.shortcuts == [False]
            assert node.heard.sids == []

    run(main)


def test_a_head_that_is_not_whole_waits_for_the_rest(run: Run, tmp_path: Path) -> None:
    """A balancer never does that; it costs nothing to be right."""

    async def main() -> None:
        async with giving(tmp_path) as node:
            request = upgrade_request(TARGET)
            caller = await node.give(request[:50])
            caller.send(request[50:])
            assert b" 101 " in await caller.head()
            assert node.shortcuts == [False]

    run(main)


def test_a_hook_and_leaving_take_the_long_way(run: Run, tmp_path: Path) -> None:
    """A hook may be a coroutine, and a node that leaves answers 503."""

    async def main() -> None:
        async with giving(tmp_path, allow_request=lambda environ: True) as node:
            caller = await node.give(upgrade_request(TARGET))
            assert b" 101 " in await caller.head()
            node.engine.leave()
            assert b" 503 " in await (await node.give(upgrade_request(TARGET))).head()
            assert node.shortcuts == [False, False]

    run(main)


def test_a_fault_of_ours_ends_the_connection_and_is_reported(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No connection stays that nobody serves."""

    async def main() -> None:
        async with giving(tmp_path) as node:
            node.engine.generate_id = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
            caller = await node.give(upgrade_request(TARGET))
            assert await caller.rest() == b""
            await eventually(lambda: node.adoption.count == 0)

    run(main)
    assert [record.getMessage() for record in caplog.records] == ["connection lost: it could not be taken over"]
