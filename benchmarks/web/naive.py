"""A reverse proxy as one writes it with aiohttp in an afternoon: one handler, one ClientSession, bodies streamed.

    python -m benchmarks.web.naive PORT BACKEND_PORT [asyncio]

On uvloop, unless asyncio's own event loop is asked for.  It checks nothing, logs nothing, keeps no cookies of the
backend's, and has no limits but aiohttp's own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web

from benchmarks.measure import new_event_loop

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding")
)
_BACKEND: web.AppKey[str] = web.AppKey("backend", str)
_SESSION: web.AppKey[ClientSession] = web.AppKey("session", ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass one request on, and its answer back."""
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    headers.append(("X-Forwarded-For", request.remote or ""))
    async with request.app[_SESSION].request(
        request.method,
        request.app[_BACKEND] + request.path_qs,
        headers=headers,
        data=request.content if request.can_read_body else None,
        allow_redirects=False,
    ) as answer:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, value)
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar(), auto_decompress=False) as session:
        app[_SESSION] = session
        yield


def application(backend_port: int) -> web.Application:
    """Return the proxy to a port of loopback."""
    app = web.Application()
    app[_BACKEND] = f"http://127.0.0.1:{backend_port}"
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    loop = asyncio.new_event_loop() if "asyncio" in sys.argv[3:] else new_event_loop()
    web.run_app(
        application(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=loop
    )
