"""The chat's page: `/` and `/static/`, from the files beside this module."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

STATIC = Path(__file__).parent / "static"
VENDOR_SCRIPT = STATIC / "vendor" / "socket.io.min.js"

# Everything comes from this origin; `ws:` and `wss:` because not every browser takes 'self' for them.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "connect-src 'self' ws: wss:",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked again each time, answered 304: a new deploy is seen at once.
    "Cache-Control": "no-cache",
}

_MISSING = f"""The chat's page needs the Socket.IO browser client, and this installation lacks it:
node/chat/static/vendor/{VENDOR_SCRIPT.name}

It is fetched from npm when the project is installed.  In a checkout, run `pip install -e .`
"""


def add_page(app: web.Application) -> None:
    """Serve the page in `app`."""
    app.router.add_get("/", _index)
    app.router.add_static("/static/", STATIC)
    app.on_response_prepare.append(_add_headers)


async def _index(_: web.Request) -> web.StreamResponse:
    if not VENDOR_SCRIPT.is_file():
        return web.Response(status=503, text=_MISSING)
    return web.FileResponse(STATIC / "index.html")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if request.path == "/" or request.path.startswith("/static/"):
        response.headers.update(_HEADERS)
