"""The chat's page: what is served, under which policy, and what it says when the browser client is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from node.chat import page


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    app = web.Application()
    page.add_page(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def get(url: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


def test_the_page_and_its_files_come_with_a_strict_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from elsewhere, no inline script, no guessing of types, revalidated after a deploy."""
    monkeypatch.setattr(page, "VENDOR_SCRIPT", page.STATIC / "chat.js")

    async def main() -> None:
        async with served() as url:
            for path in ("/", "/static/chat.js", "/static/chat.css"):
                status, body, headers = await get(url + path)
                assert status == 200
                assert body
                assert "default-src 'self'" in headers["Content-Security-Policy"]
                assert "unsafe" not in headers["Content-Security-Policy"]
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Cache-Control"] == "no-cache"

    asyncio.run(main())


def test_a_missing_browser_client_is_said_on_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(page, "VENDOR_SCRIPT", tmp_path / "socket.io.min.js")

    async def main() -> None:
        async with served() as url:
            status, body, _ = await get(url + "/")
            assert status == 503
            assert "pip install -e ." in body

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/static/../page.py", "/static/%2e%2e/page.py", "/static//etc/passwd"])
def test_nothing_outside_the_static_files_is_served(path: str) -> None:
    """Whatever the path looks like."""

    async def main() -> None:
        async with served() as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert answer.split()[1] in (b"403", b"404")

    asyncio.run(main())
