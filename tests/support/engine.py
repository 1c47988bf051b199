"""Engine.IO without Socket.IO: an engine in the test's own event loop, and a handler that says back what it hears."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from node.engine import Engine
from node.message import Message
from node.session import Session

PATH = "/engine.io/?EIO=4&transport="


def message(data: str | bytes) -> Message:
    return Message(data.encode()) if isinstance(data, str) else Message(None, (data,))


@dataclass
class Heard:
    """A node.engine.Handler that keeps what happens, and echoes unless told not to."""

    echoes: bool = True
    sids: list[str] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def opened(self, session: Session) -> None:
        self.sids.append(session.sid)

    def received(self, session: Session, data: str | bytes) -> None:
        self.messages.append(data)
        if self.echoes:
            session.send(message(data))

    def ended(self, session: Session, reason: str) -> None:
        self.reasons.append(reason)

    @property
    def moving(self) -> Heard:
        return self

    def hold(self, session: Session) -> None:
        """It has no handlers that could begin."""

    async def quiet(self, session: Session, within_s: float) -> bool:
        return True

    def busy(self) -> set[Session]:
        return set()

    def release(self, session: Session) -> None:
        """Nothing was kept."""

    def taken(self, session: Session) -> Any:
        return len(self.messages)

    def given(self, session: Session, state: Any) -> None:
        self.sids.append(session.sid)


@asynccontextmanager
async def serving(handler: Heard | None = None, **options: Any) -> AsyncIterator[tuple[Engine, str]]:
    """Serve an engine with these options; gives it and its URL."""
    engine = Engine(**options)
    engine.handler = handler or Heard()
    app = web.Application()
    engine.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield engine, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await engine.close_all(1)
        await engine.shutdown()
        await runner.cleanup()


def opened(packet: str) -> dict[str, Any]:
    """Return what an open packet says."""
    assert packet[:1] == "0", packet
    said: dict[str, Any] = json.loads(packet[1:])
    return said


async def polled_session(http: aiohttp.ClientSession, url: str, path: str = PATH) -> str:
    """Open a session by polling; return the URL for its further requests."""
    async with http.get(f"{url}{path}polling") as answer:
        assert answer.status == 200
        return f"{url}{path}polling&sid={opened(await answer.text())['sid']}"
