"""One question of a probe: a connection of its own, a request, the head and body of the answer, all by a deadline."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lb.errors import OUR_LIMITS

MOST_BYTES = 65_536
"""More than that no answer to a probe has to say: head, body, or first message."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")


class ProbeFailed(Exception):
    """A check found a fault; its text says which, in plain words."""

    def __init__(self, fault: str, *, answers: bool = False) -> None:
        super().__init__(fault)
        self.answers = answers
        """The node gave a whole answer over HTTP, if not the right one."""


class NotAsked(Exception):
    """This process has no descriptor, local port or kernel memory left to ask with."""


@dataclass(frozen=True)
class Deadline:
    """By when all of a probe must be done."""

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
class Answer:
    """The head of an answer."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated one the last."""


@asynccontextmanager
async def connection(
    host: str, port: int, deadline: Deadline
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and leave nothing behind.  What goes wrong on the connection is raised as ProbeFailed or NotAsked."""
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
            raise NotAsked(_in_words(exc)) from None
        raise ProbeFailed(_in_words(exc)) from None
    except UnicodeError:
        raise ProbeFailed(f"{host!r} is no name of a host") from None


def _in_words(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return f"host not found: {exc.strerror}"
    # asyncio sums the faults of several addresses up in one text without a number.
    return os.strerror(exc.errno).lower() if exc.errno else str(exc)


def head(host: str, port: int, path: str, headers: tuple[str, ...]) -> bytes:
    """Return the head of a GET with `headers`, lines without their end."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = (f"GET {path} HTTP/1.1", f"Host: {authority}", "User-Agent: flotilla-probe", *headers, "", "")
    return "\r\n".join(lines).encode()


async def read_head(reader: asyncio.StreamReader, name: str) -> Answer:
    """Read the final answer to `name`, as faults call it.  Raises ProbeFailed."""
    while True:
        try:
            received = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            raise ProbeFailed(f"{name}: closed {'in the middle of' if exc.partial else 'without'} an answer") from None
        except asyncio.LimitOverrunError:
            raise ProbeFailed(f"{name}: the head of the answer is too long") from None
        match = _STATUS_LINE.match(received)
        if match is None:
            raise ProbeFailed(f"{name}: the answer is not HTTP")
        status = int(match[1])
        # RFC 9110 15.2: interim answers may come before the final one; 101 is final.
        if status >= 200 or status == 101:
            fields = (line.partition(b":") for line in received[match.end() :].split(b"\r\n"))
            return Answer(status, {field.strip().lower(): value.strip() for field, _, value in fields})


async def read_body(reader: asyncio.StreamReader, answer: Answer) -> bytes:
    """Read the body, if its length is given and moderate; else return nothing."""
    length = answer.headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > MOST_BYTES:
        # Chunked, or until the connection ends: not how a node of ours says something about itself.
        return b""
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as exc:
        return exc.partial
