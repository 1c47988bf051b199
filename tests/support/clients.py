"""Real Socket.IO clients, JavaScript's and Python's, behind one small interface, so that one test can use both."""

from __future__ import annotations

import asyncio
import itertools
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import socketio

from tests.support.tools import JS, need_js_client
from tests.support.waiting import eventually

POLLING = ("polling",)
WEBSOCKET = ("websocket",)
UPGRADE = ("polling", "websocket")


@dataclass
class Heard:
    """What one client was told: Socket.IO events in order, connections and disconnections."""

    events: list[tuple[str, list[Any]]] = field(default_factory=list)
    connects: int = 0
    disconnects: list[str] = field(default_factory=list)
    engine_sid: str = ""
    transport: str = ""
    connect_errors: list[str] = field(default_factory=list)

    def all(self, event: str) -> list[Any]:
        """Return the first argument of each `event` so far."""
        return [data[0] if data else None for name, data in self.events if name == event]


class Client(Protocol):
    """One connected client."""

    heard: Heard

    @abstractmethod
    async def call(self, event: str, *data: Any, timeout_s: float = 30) -> Any:
        """Emit `event` and return what the server acknowledges with.  Raises TimeoutError."""

    @abstractmethod
    def stay_away(self) -> None:
        """Do not reconnect when the connection is lost."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect for good."""


class Crowd(Protocol):
    """Makes clients of one kind."""

    @abstractmethod
    async def connect(self, url: str, transports: Sequence[str], headers: dict[str, str] | None = None) -> Client:
        """Return a client that is connected, and with UPGRADE has changed its transport."""


async def _arrived(heard: Heard, transports: Sequence[str]) -> None:
    wanted = transports[-1]
    await eventually(
        lambda: heard.connects > 0 and heard.transport == wanted,
        within_s=20,
        what=f"connected over {wanted}; {heard.connect_errors=}",
    )


@dataclass
class _JsClient:
    id: str
    crowd: JsCrowd
    heard: Heard = field(default_factory=Heard)

    async def call(self, event: str, *data: Any, timeout_s: float = 30) -> Any:
        return await self.crowd.request(
            "emit", timeout_s + 5, id=self.id, event=event, data=data, timeoutMs=int(timeout_s * 1000)
        )

    def stay_away(self) -> None:
        self.crowd.send("stayAway", id=self.id)

    async def close(self) -> None:
        self.crowd.send("close", id=self.id)

    def take(self, report: dict[str, Any]) -> None:
        match report["what"]:
            case "event":
                self.heard.events.append((report["event"], report["data"]))
            case "connect":
                self.heard.connects += 1
                self.heard.engine_sid, self.heard.transport = report["engineSid"], report["transport"]
            case "upgrade":
                self.heard.transport = report["transport"]
            case "disconnect":
                self.heard.disconnects.append(report["reason"])
            case "connect_error":
                self.heard.connect_errors.append(report["reason"])


class JsCrowd:
    """Clients of the `socket.io-client` package from npm, all in one Node.js process that keeps no cookies."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._clients: dict[str, _JsClient] = {}
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    async def connect(self, url: str, transports: Sequence[str], headers: dict[str, str] | None = None) -> Client:
        client = _JsClient(f"c{next(self._numbers)}", self)
        self._clients[client.id] = client
        options = {"transports": list(transports), "extraHeaders": headers or {}}
        self.send("connect", id=client.id, url=url, options=options)
        await _arrived(client.heard, transports)
        return client

    @property
    def heard(self) -> list[Heard]:
        """What each client has heard, also one that is not connected yet."""
        return [client.heard for client in self._clients.values()]

    def send(self, command: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")

    async def request(self, command: str, timeout_s: float, **fields: Any) -> Any:
        number = next(self._numbers)
        self._requests[number] = asyncio.get_running_loop().create_future()
        self.send(command, request=number, **fields)
        async with asyncio.timeout(timeout_s):
            return await self._requests[number]

    async def listen(self) -> None:
        """Take the reports of the process until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if report["what"] == "ack":
                self._answer(self._requests.pop(report["request"]), report)
            elif report["id"] in self._clients:
                self._clients[report["id"]].take(report)

    def _answer(self, waiting: asyncio.Future[Any], report: dict[str, Any]) -> None:
        if waiting.done():
            return
        if "error" in report:
            waiting.set_exception(TimeoutError(report["error"]))
        else:
            waiting.set_result(report.get("answer"))


@asynccontextmanager
async def js_crowd() -> AsyncIterator[Crowd]:
    """Run a crowd of JavaScript clients; skip the test where Node.js or the client is missing."""
    process = await asyncio.create_subprocess_exec(
        need_js_client(),
        str(JS / "clients.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 2**20,
    )
    crowd = JsCrowd(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd.listen())
        try:
            yield crowd
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


class _PythonClient:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.heard = Heard()
        self.sio = socketio.AsyncClient(
            http_session=session,
            reconnection_delay=0.1,
            reconnection_delay_max=0.5,
            request_timeout=60,  # two hundred of them in one process may be busy for longer than the usual 5 s
            handle_sigint=False,
        )
        self.sio.on("connect", self._connected)
        self.sio.on("disconnect", self.heard.disconnects.append)
        self.sio.on("connect_error", lambda data: self.heard.connect_errors.append(str(data)))
        self.sio.on("*", lambda event, *data: self.heard.events.append((event, list(data))))

    def _connected(self) -> None:
        self.heard.connects += 1
        self.heard.engine_sid, self.heard.transport = self.sio.eio.sid, self.sio.transport()

    async def call(self, event: str, *data: Any, timeout_s: float = 30) -> Any:
        try:
            return await self.sio.call(event, data if len(data) != 1 else data[0], timeout=timeout_s)
        except socketio.exceptions.TimeoutError:
            raise TimeoutError(f"no acknowledgement of {event} in {timeout_s} s") from None

    def stay_away(self) -> None:
        self.sio.reconnection = False

    async def close(self) -> None:
        await self.sio.shutdown()


class PythonCrowd:
    """Clients of python-socketio.  Each has an HTTP session of its own, which ignores cookies."""

    def __init__(self) -> None:
        self._clients: list[tuple[_PythonClient, aiohttp.ClientSession]] = []

    async def connect(self, url: str, transports: Sequence[str], headers: dict[str, str] | None = None) -> Client:
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        client = _PythonClient(session)
        self._clients.append((client, session))
        await client.sio.connect(url, headers=headers or {}, transports=list(transports), wait_timeout=10, retry=True)
        client.heard.transport = client.sio.transport()
        await _arrived(client.heard, transports)
        return client

    async def close(self) -> None:
        for client, session in self._clients:
            await client.close()
            await session.close()


@asynccontextmanager
async def python_crowd() -> AsyncIterator[Crowd]:
    """Run a crowd of Python clients."""
    crowd = PythonCrowd()
    try:
        yield crowd
    finally:
        await crowd.close()


CROWDS: dict[str, Callable[[], AbstractAsyncContextManager[Crowd]]] = {
    "javascript": js_crowd,
    "python": python_crowd,
}
