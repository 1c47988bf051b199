"""The admin address: health, metrics and the API, for operators and their tools.  Keep it private.

Whichever worker answers speaks for all of them (lb/reports.py).
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from cluster.rundir import SUPERVISOR, RunDir
from lb.discovery import Discovery
from lb.exposition import CONTENT_TYPE, exposition
from lb.pool import Pool
from lb.reports import Reports
from lb.views import ChildReport, children_in, health_view, nodes_view

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Flotilla: admin</title>
<h1>Flotilla</h1>
<ul>
<li><a href="/healthz">/healthz</a>: is anything wrong?  200 or 503, with reasons
<li><a href="/metrics">/metrics</a>: all numbers, for Prometheus
<li><a href="/api/nodes">/api/nodes</a>: the nodes; <code>python -m lb status</code> shows them as a table
</ul>
"""


def admin_app(pool: Pool, reports: Reports, discovery: Discovery, run_dir: RunDir) -> web.Application:
    """Return the application to serve on `lb.admin`."""
    admin = _Admin(pool, reports, discovery, run_dir)
    app = web.Application(middlewares=[_plain_errors])
    app.router.add_get("/", admin.index)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/api/nodes", admin.nodes)
    return app


class _Admin:
    def __init__(self, pool: Pool, reports: Reports, discovery: Discovery, run_dir: RunDir) -> None:
        self._pool = pool
        self._reports = reports
        self._discovery = discovery
        self._run_dir = run_dir

    async def index(self, _: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "default-src 'none'"}
        return web.Response(text=_INDEX, content_type="text/html", headers=_HEADERS | policy)

    async def healthz(self, _: web.Request) -> web.Response:
        status, body = health_view(self._pool, self._children(), self._discovery.redis)
        return _json(body, status)

    async def metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._pool, self._reports.stack(), self._discovery.redis)
        return web.Response(body=text, headers=_HEADERS | {"Content-Type": CONTENT_TYPE})

    async def nodes(self, _: web.Request) -> web.Response:
        totals = self._reports.stack().totals
        return _json({"nodes": nodes_view(self._pool, totals, self._children(), self._pool.clock())})

    def _children(self) -> list[ChildReport]:
        return children_in(self._run_dir.report(SUPERVISOR))


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what we do not have as JSON too."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        paths = sorted({resource.canonical for resource in request.app.router.resources()})
        return _json({"error": f"no {request.path} here", "paths": paths}, 404)
    except web.HTTPMethodNotAllowed as exc:
        allowed = sorted(exc.allowed_methods)
        answer = _json({"error": f"{exc.method} is not allowed here", "allowed": allowed}, 405)
        answer.headers["Allow"] = ", ".join(allowed)  # RFC 9110 15.5.6
        return answer


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers=_HEADERS)
