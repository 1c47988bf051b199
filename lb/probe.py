"""The active checks: does a node answer HTTP, and does a WebSocket to it really open?

Answers over HTTP say little about the WebSocket path, so a probe opens one as a client would, reads the Engine.IO open
packet and takes its leave, so that no session lingers.  Each check has a connection of its own, as a new client has.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from cluster.config import Health
from cluster.member import State
from cluster.tag import claimed_slot_of
from lb.errors import OUR_LIMITS

MOST_BYTES = 65_536
"""More than that no answer to a probe has to say: head, body, or first message."""

GOODBYE_S = 0.5
"""How long a probe waits for the node to close its side, within the probe's time."""

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")
_TEXT, _CLOSE, _CONTINUATION = 0x1, 0x8, 0x0  # RFC 6455 5.2
_EIO_OPEN, _EIO_CLOSE = b"0", b"1"  # https://socket.io/docs/v4/engine-io-protocol/#packet-encoding


class ProbeFailed(Exception):
    """A check found a fault; its text says which, in plain words."""

    def __init__(self, fault: str, *, answers: bool = False) -> None:
        super().__init__(fault)
        self.answers = answers
        """The node gave a whole answer over HTTP, if not the right one."""


class _NotAsked(Exception):
    """This process has no descriptor, local port or kernel memory left to ask with."""


@dataclass(frozen=True)
class Found:
    """What a probe found out about a node, which is well if `fault` is empty."""

    fault: str = ""
    leaving: bool = False
    """It answered that it is draining."""
    answers: bool = False
    """It is not well, and not dead either: it gave an answer, if not the right one."""
    degraded: bool = False
    """It is well, and says that it does not reach Redis, or hears nothing through it."""
    unknown: bool = False
    """It could not be asked, for want of our own: that says nothing of the node."""
    slot: str = ""
    """The slot that its sids carry, if they are Flotilla's."""
    address: tuple[str, int] | None = None
    """Where the WebSocket check connected to: the configured host may be a name."""

    @property
    def is_well(self) -> bool:
        return not self.fault


@dataclass(frozen=True)
class _Deadline:
    at: float
    """In the event loop's time."""
    seconds: float

    @asynccontextmanager
    async def awaiting(self, what: str) -> AsyncIterator[None]:
        """Bound what is inside by this deadline; raise ProbeFailed that says what did not come."""
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError:
            raise ProbeFailed(f"no {what} within {self.seconds:g} s") from None


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated one the last."""


async def probe(host: str, port: int, settings: Health) -> Found:
    """Check the node at `host` and `port` as `settings` say, within `settings.timeout_s`.

    Never raises for what a node does or fails to do: that is what it reports.  With both paths empty, a node is well
    if it accepts a TCP connection.
    """
    timeout_s = settings.timeout_s
    deadline = _Deadline(asyncio.get_running_loop().time() + timeout_s, timeout_s)
    try:
        found = Found()
        if settings.http_path:
            found = await _check_http(host, port, settings.http_path, deadline)
        if found.leaving:
            return found
        if settings.websocket_path:
            opened = await _check_websocket(host, port, settings.websocket_path, deadline)
            return replace(opened, degraded=found.degraded)
        if not settings.http_path:
            async with _connection(host, port, deadline):
                pass
    except ProbeFailed as exc:
        return Found(str(exc), answers=exc.answers)
    except _NotAsked as exc:
        return Found(str(exc), unknown=True)
    return found


async def _check_http(host: str, port: int, path: str, deadline: _Deadline) -> Found:
    """GET `path`; 2xx is well.  A node that says that it leaves is found so; raises ProbeFailed for any other fault."""
    name = f"GET {urlsplit(path).path}"
    async with _connection(host, port, deadline) as (reader, writer):
        writer.write(_head(host, port, path, ("Connection: close", "Accept: application/json")))
        async with deadline.awaiting(f"answer to {name}"):
            answer = await _read_head(reader, name)
            body = await _read_body(reader, answer)
            status = _said_in(body, "status")
            if 200 <= answer.status < 300:
                return Found(degraded=status == "degraded")
            if status == "deaf":
                # It cannot know whether Redis delivers to others; we do.
                return Found(degraded=True)
            said = _said_in(body, "state")
            state = State(said) if said in set(State) else None
    fault = f"{name} answered {answer.status}" + (f": {state}" if state else "")
    if state is State.DRAINING:
        return Found(fault, leaving=True)
    raise ProbeFailed(fault, answers=state is not State.JOINING)


async def _check_websocket(host: str, port: int, path: str, deadline: _Deadline) -> Found:
    """Open a WebSocket at `path`, read the Engine.IO open packet if the query asks for Engine.IO 4, and close it."""
    parts = urlsplit(path)
    key = base64.b64encode(os.urandom(16))
    handshake = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key.decode()}",
    )
    async with _connection(host, port, deadline) as (reader, writer):
        writer.write(_head(host, port, path, handshake))
        async with deadline.awaiting(f"answer to the WebSocket upgrade of {parts.path}"):
            _check_upgrade(await _read_head(reader, f"WebSocket upgrade of {parts.path}"), parts.path, key)
        slot, goodbye = "", _frame(_CLOSE, (1000).to_bytes(2, "big"))
        if parse_qs(parts.query).get("EIO") == ["4"]:
            async with deadline.awaiting("Engine.IO open packet"):
                slot = claimed_slot_of(await _read_open_packet(reader)) or ""
            goodbye = _frame(_TEXT, _EIO_CLOSE) + goodbye
        peer = writer.get_extra_info("peername")
        await _take_leave(reader, writer, goodbye, deadline)
    return Found(slot=slot, address=(peer[0], peer[1]) if peer else None)


def _check_upgrade(answer: _Answer, path: str, key: bytes) -> None:
    if answer.status != 101:
        raise ProbeFailed(f"WebSocket upgrade of {path} answered {answer.status}", answers=True)
    # RFC 6455 4.1: what proves that a WebSocket server answered, and answered us.
    expected = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
    if answer.headers.get(b"sec-websocket-accept") != expected:
        raise ProbeFailed(f"WebSocket upgrade of {path} answered with a wrong Sec-WebSocket-Accept")


@asynccontextmanager
async def _connection(
    host: str, port: int, deadline: _Deadline
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and leave nothing behind.  What goes wrong on the connection is raised as ProbeFailed or _NotAsked."""
    try:
        async with deadline.awaiting("connection"):
            reader, writer = await asyncio.open_connection(host, port, limit=MOST_BYTES)
        try:
            yield reader, writer
        finally:
            # Not `close`: that would wait for a peer that does not read.
            writer.transport.abort()
    except OSError as exc:
        if exc.errno in OUR_LIMITS:
            raise _NotAsked(_in_words(exc)) from None
        raise ProbeFailed(_in_words(exc)) from None
    except UnicodeError:
        raise ProbeFailed(f"{host!r} is no name of a host") from None


def _in_words(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return f"host not found: {exc.strerror}"
    # asyncio sums the faults of several addresses up in one text without a number.
    return os.strerror(exc.errno).lower() if exc.errno else str(exc)


def _head(host: str, port: int, path: str, headers: tuple[str, ...]) -> bytes:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = (f"GET {path} HTTP/1.1", f"Host: {authority}", "User-Agent: flotilla-probe", *headers, "", "")
    return "\r\n".join(lines).encode()


async def _read_head(reader: asyncio.StreamReader, name: str) -> _Answer:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            raise ProbeFailed(f"{name}: closed {'in the middle of' if exc.partial else 'without'} an answer") from None
        except asyncio.LimitOverrunError:
            raise ProbeFailed(f"{name}: the head of the answer is too long") from None
        match = _STATUS_LINE.match(head)
        if match is None:
            raise ProbeFailed(f"{name}: the answer is not HTTP")
        status = int(match[1])
        # RFC 9110 15.2: interim answers may come before the final one; 101 is final.
        if status >= 200 or status == 101:
            fields = (line.partition(b":") for line in head[match.end() :].split(b"\r\n"))
            return _Answer(status, {field.strip().lower(): value.strip() for field, _, value in fields})


async def _read_body(reader: asyncio.StreamReader, answer: _Answer) -> bytes:
    length = answer.headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > MOST_BYTES:
        # Chunked, or until the connection ends: not how a node of ours says something about itself.
        return b""
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as exc:
        return exc.partial


def _said_in(body: bytes, name: str) -> str:
    """Return what a node says of itself under `name` in the body of its /healthz, empty if it says nothing."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    said = value.get(name) if isinstance(value, dict) else None
    return said if isinstance(said, str) else ""


async def _read_open_packet(reader: asyncio.StreamReader) -> str:
    """Return the sid of the Engine.IO open packet, which is the first message of the WebSocket."""
    message = await _read_message(reader)
    try:
        packet = json.loads(message[1:]) if message[:1] == _EIO_OPEN else None
    except (ValueError, RecursionError):
        packet = None
    sid = packet.get("sid") if isinstance(packet, dict) else None
    if not isinstance(sid, str) or not sid:
        raise ProbeFailed("the first WebSocket message is no Engine.IO open packet")
    return sid


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Return the first text message, put together from its fragments (RFC 6455 5.4)."""
    message = b""
    try:
        while True:
            first, second = await reader.readexactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
            opcode = first & 0x0F
            # A server masks nothing (5.1), and without extensions the reserved bits are zero.
            if first & 0x70 or second & 0x80 or len(message) + length > MOST_BYTES:
                raise ProbeFailed("the first WebSocket message is no Engine.IO open packet")
            payload = await reader.readexactly(length)
            if opcode == _CLOSE:
                code = int.from_bytes(payload[:2], "big") or 1005
                raise ProbeFailed(f"the WebSocket was closed with {code} before the Engine.IO open packet")
            if opcode in (_TEXT, _CONTINUATION):
                message += payload
                if first & 0x80:
                    return message
            elif opcode < _CLOSE:
                raise ProbeFailed("the first WebSocket message is no Engine.IO open packet")
    except asyncio.IncompleteReadError:
        raise ProbeFailed("the connection was closed before the Engine.IO open packet") from None


def _frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame of at most 125 bytes (RFC 6455 5.2), masked with zeros: nobody's secrets are in it."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


async def _take_leave(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, goodbye: bytes, deadline: _Deadline
) -> None:
    """Close as a client that leaves, and give the node time to close its side.  The verdict stands whatever happens."""
    until = min(deadline.at, asyncio.get_running_loop().time() + GOODBYE_S)
    try:
        async with asyncio.timeout_at(until):
            writer.write(goodbye)
            while await reader.read(MOST_BYTES):
                continue
    except (TimeoutError, OSError):
        return
