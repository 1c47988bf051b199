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
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from cluster.config import Health
from cluster.member import State
from cluster.tag import claimed_slot_of
from lb.question import MOST_BYTES, Answer, Deadline, NotAsked, ProbeFailed, connection, head, read_body, read_head

GOODBYE_S = 0.5
"""How long a probe waits for the node to close its side, within the probe's time."""

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_TEXT, _CLOSE, _CONTINUATION = 0x1, 0x8, 0x0  # RFC 6455 5.2
_EIO_OPEN, _EIO_CLOSE = b"0", b"1"  # https://socket.io/docs/v4/engine-io-protocol/#packet-encoding


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


async def probe(host: str, port: int, settings: Health) -> Found:
    """Check the node at `host` and `port` as `settings` say, within `settings.timeout_s`.

    Never raises for what a node does or fails to do: that is what it reports.  With both paths empty, a node is well
    if it accepts a TCP connection.
    """
    timeout_s = settings.timeout_s
    deadline = Deadline(asyncio.get_running_loop().time() + timeout_s, timeout_s)
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
            async with connection(host, port, deadline):
                pass
    except ProbeFailed as exc:
        return Found(str(exc), answers=exc.answers)
    except NotAsked as exc:
        return Found(str(exc), unknown=True)
    return found


async def _check_http(host: str, port: int, path: str, deadline: Deadline) -> Found:
    """GET `path`; 2xx is well.  A node that says that it leaves is found so; raises ProbeFailed for any other fault."""
    name = f"GET {urlsplit(path).path}"
    async with connection(host, port, deadline) as (reader, writer):
        writer.write(head(host, port, path, ("Connection: close", "Accept: application/json")))
        async with deadline.awaiting(f"answer to {name}"):
            answer = await read_head(reader, name)
            body = await read_body(reader, answer)
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


async def _check_websocket(host: str, port: int, path: str, deadline: Deadline) -> Found:
    """Open a WebSocket at `path`, read the Engine.IO open packet if the query asks for Engine.IO 4, and close it."""
    parts = urlsplit(path)
    key = base64.b64encode(os.urandom(16))
    handshake = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key.decode()}",
    )
    async with connection(host, port, deadline) as (reader, writer):
        writer.write(head(host, port, path, handshake))
        async with deadline.awaiting(f"answer to the WebSocket upgrade of {parts.path}"):
            _check_upgrade(await read_head(reader, f"WebSocket upgrade of {parts.path}"), parts.path, key)
        slot, goodbye = "", _frame(_CLOSE, (1000).to_bytes(2, "big"))
        if parse_qs(parts.query).get("EIO") == ["4"]:
            async with deadline.awaiting("Engine.IO open packet"):
                slot = claimed_slot_of(await _read_open_packet(reader)) or ""
            goodbye = _frame(_TEXT, _EIO_CLOSE) + goodbye
        peer = writer.get_extra_info("peername")
        await _take_leave(reader, writer, goodbye, deadline)
    return Found(slot=slot, address=(peer[0], peer[1]) if peer else None)


def _check_upgrade(answer: Answer, path: str, key: bytes) -> None:
    if answer.status != 101:
        raise ProbeFailed(f"WebSocket upgrade of {path} answered {answer.status}", answers=True)
    # RFC 6455 4.1: what proves that a WebSocket server answered, and answered us.
    expected = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
    if answer.headers.get(b"sec-websocket-accept") != expected:
        raise ProbeFailed(f"WebSocket upgrade of {path} answered with a wrong Sec-WebSocket-Accept")


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
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, goodbye: bytes, deadline: Deadline
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
