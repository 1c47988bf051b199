"""The dashboard's files, and how they are served: three files of ours, nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aiohttp import web

_DIRECTORY = Path(__file__).parent / "dashboard"

# CSP 3: scripts and styles from this very address, nothing inline, no frames, no form that goes anywhere.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    # Else another site's page could tell from the load event that we are here.
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

PAGES = {
    "/": ("index.html", "text/html"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/api/openapi.json": ("openapi.json", "application/json"),
}


def add_pages(app: web.Application) -> None:
    """Serve the files of the dashboard and the description of the API."""
    for path in PAGES:
        app.router.add_get(path, _page)


async def _page(request: web.Request) -> web.Response:
    name, kind = PAGES[request.path]
    # A newer version's page must not talk to us, nor ours to a newer version: always ask.
    headers = HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return web.Response(body=_content(name), content_type=kind, charset="utf-8", headers=headers)


@cache
def _content(name: str) -> bytes:
    return (_DIRECTORY / name).read_bytes()
