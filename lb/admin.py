"""The admin address: health, metrics, the API and the dashboard, for operators and their tools.  Keep it private.

Whichever worker answers speaks for all of them (lb/reports.py).  lb/gate.py decides who may ask what; the API is
described in lb/dashboard/openapi.json.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cluster.config import NO_REDIS, Config
from cluster.redis_link import without_password
from cluster.rundir import SUPERVISOR, RunDir
from cluster.version import version
from lb.canary import Canary
from lb.discovery import Discovery
from lb.exposition import CONTENT_TYPE, exposition
from lb.gate import Gate
from lb.history import History
from lb.operations import Operations
from lb.overview import history_view, overview, redis_view
from lb.pages import HEADERS, add_pages
from lb.pool import Pool
from lb.reports import Reports, Stack
from lb.views import ChildReport, children_in, health_view, nodes_view, warnings

_HEADERS = HEADERS | {"Cache-Control": "no-store"}

MOST_BODY_BYTES = 4096
"""An order to drain has some twenty."""


@dataclass(frozen=True)
class Sources:
    """Where the answers come from."""

    config: Config
    pool: Pool
    reports: Reports
    discovery: Discovery
    run_dir: RunDir
    history: History
    operations: Operations
    canary: Canary


def admin_app(sources: Sources) -> web.Application:
    """Return the application to serve on `lb.admin`."""
    admin = _Admin(sources)
    app = web.Application(
        middlewares=[_plain_errors, _gated(Gate.of(sources.config.lb))], client_max_size=MOST_BODY_BYTES
    )
    add_pages(app)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/metrics", admin.metrics)
    app.router.add_get("/api/nodes", admin.nodes)
    app.router.add_get("/api/overview", admin.overview)
    app.router.add_get("/api/history", admin.samples)
    sources.operations.add_to(app)
    return app


class _Admin:
    def __init__(self, sources: Sources) -> None:
        self._config = sources.config
        self._pool = sources.pool
        self._reports = sources.reports
        self._discovery = sources.discovery
        self._run_dir = sources.run_dir
        self._history = sources.history
        self._canary = sources.canary

    async def healthz(self, _: web.Request) -> web.Response:
        status, body = health_view(self._pool, self._children(), self._discovery.redis, self._reports.stack().workers)
        return _json(body, status)

    async def metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._pool, self._reports.stack(), self._discovery.redis, self._canary.round_trip_s)
        return web.Response(body=text, headers=_HEADERS | {"Content-Type": CONTENT_TYPE})

    async def nodes(self, _: web.Request) -> web.Response:
        stack = self._reports.stack()
        warned = warnings(self._pool, stack.workers)
        return _json({"nodes": self._nodes(stack, self._children()), "warnings": warned})

    async def overview(self, _: web.Request) -> web.Response:
        stack, children = self._reports.stack(), self._children()
        nodes = self._nodes(stack, children)
        health = health_view(self._pool, children, self._discovery.redis, stack.workers)[1]
        url = self._config.redis
        address = "" if url == NO_REDIS else without_password(url)
        redis = redis_view(self._discovery.redis, address, nodes, self._discovery.read_s, self._canary.round_trip_s)
        about = {"cluster": self._config.cluster, "version": version(), "at": time.time()}
        return _json(about | overview(nodes, health, redis, stack, self._history))

    async def samples(self, _: web.Request) -> web.Response:
        return _json(history_view(self._history))

    def _nodes(self, stack: Stack, children: list[ChildReport]) -> list[dict[str, Any]]:
        return nodes_view(self._pool, stack.totals, children, self._pool.clock())

    def _children(self) -> list[ChildReport]:
        return children_in(self._run_dir.report(SUPERVISOR))


def _gated(gate: Gate) -> Middleware:
    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        denied = gate.denied(request.method, request.path, request.headers)
        if denied is None:
            return await handler(request)
        answer = _json({"error": denied.reason}, denied.status)
        if denied.status == 401:
            answer.headers["WWW-Authenticate"] = 'Bearer realm="flotilla"'  # RFC 9110 15.5.2
        return answer

    return ask


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
    except web.HTTPRequestEntityTooLarge:
        return _json({"error": f"the body has more than {MOST_BODY_BYTES} bytes"}, 413)


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers=_HEADERS)
