"""HTTP exchanges through a real front with one backend that a test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.lb.conftest import Run
from tests.support.backends import Backend, Talk, backend
from tests.support.balancer import Balancer, balancer


def get(target: str = "/", *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: h", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def through(run: Run, talk: Talk, check: Callable[[Balancer, Backend], object], **lb: Any) -> None:
    """Run `check`, which returns an awaitable, with one backend that does `talk`."""

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port, **lb) as lb_:
            await check(lb_, node)  # type: ignore[misc]

    run(main)


async def read_chunked(reader: asyncio.StreamReader) -> bytes:
    """Return a body that comes in chunks, without extensions or trailer fields, to its end."""
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return body
