"""lb/admin.py and lb/views.py: what operators and their tools are told, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cluster.config import Config
from cluster.member import NodeRecord, Signal, State
from cluster.rundir import SUPERVISOR, RunDir
from lb.admin import Sources, admin_app
from lb.canary import Canary
from lb.discovery import Discovery
from lb.drains import Drains
from lb.events import Events
from lb.history import History
from lb.metrics import Metrics, NodeCounts, Totals
from lb.operations import Operations
from lb.pages import PAGES
from lb.pool import Pool
from lb.reports import Reports
from lb.views import ChildReport, children_in, health_view, nodes_view


def record(name: str, **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a"} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


@dataclass
class Admin:
    """An admin address that serves."""

    pool: Pool
    metrics: Metrics
    run_dir: RunDir
    history: History
    port: int
    session: aiohttp.ClientSession

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], str]:
        return await self.send(path, method, {name.replace("_", "-"): value for name, value in headers.items()})

    async def send(
        self, path: str, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, headers=headers, data=body) as answer:
            return answer.status, answer.headers, await answer.text()

    async def json(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        status, told, text = await self.ask(path, method, **headers)
        assert told["Content-Type"] == "application/json; charset=utf-8"
        return status, json.loads(text)


@asynccontextmanager
async def serving(path: Path, **lb: object) -> AsyncIterator[Admin]:
    config = Config.model_validate({"redis": "none", "nodes": {"local": 1}, "lb": lb})
    pool, metrics, run_dir = Pool(time.monotonic), Metrics(), RunDir(path)
    discovery, reports = Discovery(pool, config), Reports(run_dir, 0, metrics, pool)
    history = History(pool)
    operations = Operations(pool, Drains(pool, config, run_dir), Events(run_dir, 0))
    runner = web.AppRunner(
        admin_app(Sources(config, pool, reports, discovery, run_dir, history, operations, Canary(config)))
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Admin(pool, metrics, run_dir, history, runner.addresses[0][1], session)
    finally:
        await runner.cleanup()


def served(path: Path, check: Callable[[Admin], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving(path) as admin:
            await check(admin)

    asyncio.run(main())


def rise(pool: Pool, name: str) -> None:
    pool.signal(pool.nodes[name], Signal.RISE, "answers its probes")


def test_healthz_follows_the_nodes(tmp_path: Path) -> None:
    """503 with the reason until one is ready, 200 from then on."""

    async def check(admin: Admin) -> None:
        status, body = await admin.json("/healthz")
        assert (status, body["status"]) == (503, "failing")
        assert body["problems"] == ["no node is ready (1 joining)"]
        rise(admin.pool, "n3000")
        assert await admin.json("/healthz") == (
            200,
            {
                "status": "ok",
                "problems": [],
                "warnings": [],
                "nodes": {state: int(state is State.READY) for state in State},
                "children": [],
                "redis": "none",
            },
        )

    served(tmp_path, check)


def test_healthz_names_a_child_that_was_given_up(tmp_path: Path) -> None:
    """The others serve, and yet somebody must look."""

    async def check(admin: Admin) -> None:
        rise(admin.pool, "n3000")
        children = [
            {"name": "n3000", "pid": 5, "state": "ready", "restarts": 1, "reason": "", "birth": "b/1", "kind": "node"},
            {"name": "n3001", "pid": None, "state": "given_up", "restarts": 9, "reason": "cannot import x"},
        ]
        admin.run_dir.publish(SUPERVISOR, {"pid": 1, "children": children})
        status, body = await admin.json("/healthz")
        assert status == 503
        assert body["problems"] == ["n3001 was given up: cannot import x"]
        assert body["children"] == [
            {"name": "n3000", "state": "ready", "pid": 5, "restarts": 1},
            {"name": "n3001", "state": "given_up", "pid": None, "restarts": 9},
        ]

    served(tmp_path, check)


def test_nodes_are_shown_with_what_they_say_and_what_we_carry(tmp_path: Path) -> None:
    """Every field of the contract."""

    async def check(admin: Admin) -> None:
        said = record("n3000", pid=77, connections=4, users=3, memory_bytes=9, cpu_percent=1.5, loop_lag_ms=0.5)
        admin.pool.seen([said])
        rise(admin.pool, "n3000")
        admin.metrics.tunnel_opened("n3000", 0.001)
        admin.metrics.exchange_done("n3000", 200)
        admin.metrics.connect_failed("n3000")
        status, body = await admin.json("/api/nodes")
        assert status == 200
        [node] = body["nodes"]
        assert 0 <= node.pop("since_s") < 60
        assert node == {
            "name": "n3000",
            "host": "127.0.0.1",
            "port": 3000,
            "pid": 77,
            "state": "ready",
            "reason": "answers its probes",
            "path": "tunnel",
            "weight": 1.0,
            "degraded": False,
            "drain": None,
            "static": True,
            "adopted": False,
            "connections": 4,
            "tunnels": 1,
            "handoffs": 0,
            "exchanges": 1,
            "connect_failures": 1,
            "uptime_s": 0.0,
            "incarnation": "a",
            "version": "",
            "users": 3,
            "memory_bytes": 9,
            "cpu_percent": 1.5,
            "loop_lag_ms": 0.5,
            "messages_in": 0,
            "messages_out": 0,
        }

    served(tmp_path, check)


def test_numbers_of_other_workers_are_in(tmp_path: Path) -> None:
    """Whichever worker answers speaks for all: here the pytest process's parent plays a neighbour."""

    async def check(admin: Admin) -> None:
        worker = {"index": 1, "pid": os.getppid(), "at": time.monotonic()}
        totals = Totals({"n3000": NodeCounts([0, 5, 0, 0, 0], tunnels_open=2)})
        admin.run_dir.publish("worker-1-9", {"worker": worker, "totals": totals.to_dict()})
        admin.metrics.tunnel_opened("n3000", 0.001)
        _, body = await admin.json("/api/nodes")
        assert (body["nodes"][0]["connections"], body["nodes"][0]["exchanges"]) == (3, 5)
        _, _, text = await admin.ask("/metrics")
        assert 'flotilla_tunnels_open{node="n3000"} 3.0' in text
        assert text.count("flotilla_worker_uptime_seconds{") == 2

    served(tmp_path, check)


def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    """The content type that Prometheus asks for."""

    async def check(admin: Admin) -> None:
        status, headers, text = await admin.ask("/metrics")
        assert status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert '\nflotilla_node_state{node="n3000",state="joining"} 1.0\n' in text

    served(tmp_path, check)


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/nodes", "/api/overview", "/api/history", "/nowhere"])
def test_no_answer_may_be_kept(tmp_path: Path, path: str) -> None:
    """A cached health check is worse than none."""

    async def check(admin: Admin) -> None:
        _, headers, _ = await admin.ask(path)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"

    served(tmp_path, check)


def test_an_unknown_path_is_404_and_says_what_there_is(tmp_path: Path) -> None:
    """In JSON, as everything here that is meant for tools."""

    async def check(admin: Admin) -> None:
        status, body = await admin.json("/api/node")
        assert (status, body["error"]) == (404, "no /api/node here")
        assert {"/", "/healthz", "/metrics", "/api/nodes", "/api/overview"} <= set(body["paths"])

    served(tmp_path, check)


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api/nodes"])
def test_only_reading_is_allowed(tmp_path: Path, path: str) -> None:
    """405 with Allow (RFC 9110 15.5.6)."""

    async def check(admin: Admin) -> None:
        status, headers, _ = await admin.ask(path, "POST", X_Flotilla="1")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert await admin.json(path, "DELETE", X_Flotilla="1") == (
            405,
            {"error": "DELETE is not allowed here", "allowed": ["GET", "HEAD"]},
        )
        status, _, text = await admin.ask(path, "HEAD")
        assert (status in (200, 503), text) == (True, "")

    served(tmp_path, check)


def test_without_nodes_health_says_so() -> None:
    """`discover: true`, and nobody came yet."""
    status, body = health_view(Pool(lambda: 0.0), [], "ok")
    assert (status, body["problems"]) == (503, ["no node is ready (none known)"])


def test_a_redis_that_is_away_is_no_reason_for_503() -> None:
    """Clients are served; taking the balancer out would make an outage of it."""
    pool = Pool(lambda: 0.0)
    pool.add_static("h", 1, "n1")
    rise(pool, "n1")
    status, body = health_view(pool, [], "away")
    assert (status, body["status"], body["redis"]) == (200, "ok", "away")


def test_what_a_plain_server_does_not_say_is_null() -> None:
    """Unknown is not zero; its pid is known if we run it."""
    pool = Pool(lambda: 5.0)
    pool.add_static("h", 1, "n1")
    pool.add_static("h", 2, "n2")
    one, two = nodes_view(pool, Totals({"n2": NodeCounts(tunnels_open=3)}), [ChildReport("n1", pid=42)], 7.5)
    assert (one["pid"], one["connections"], one["since_s"]) == (42, 0, 2.5)
    assert (two["pid"], two["connections"]) == (None, 3)
    for name in ("users", "memory_bytes", "cpu_percent", "loop_lag_ms", "messages_in", "uptime_s", "version"):
        assert one[name] is None


def test_nodes_are_listed_by_name() -> None:
    """A table that does not jump."""
    pool = Pool(lambda: 0.0)
    for name in ("b", "c", "a"):
        pool.add_static("h", ord(name), name)
    assert [node["name"] for node in nodes_view(pool, Totals(), [], 0.0)] == ["a", "b", "c"]


@pytest.mark.parametrize("report", [None, {}, {"children": []}])
def test_no_report_of_a_supervisor_is_no_children(report: dict[str, Any] | None) -> None:
    """A worker may run without one."""
    assert children_in(report) == []


def test_a_short_report_of_a_child_is_enough() -> None:
    """Only its name is needed."""
    assert children_in({"children": [{"name": "x", "reason": None}]}) == [ChildReport("x")]


def test_states_are_all_counted() -> None:
    """Also those that no node is in."""
    _, body = health_view(Pool(lambda: 0.0), [], "none")
    assert list(body["nodes"]) == list(State)


TOKEN = "correct-horse-battery"


def test_the_gate_stands_before_everything(tmp_path: Path) -> None:
    """A page whose name was pointed at this host gets nothing, a form of another site changes nothing."""

    async def check(admin: Admin) -> None:
        for path in ("/", "/healthz", "/metrics", "/api/nodes", "/nowhere"):
            status, body = await admin.json(path, Host="evil.example")
            assert (status, "localhost" in body["error"]) == (421, True)
        for path in ("/api/nodes/n3000/drain", "/api/nodes/n3000/undrain"):
            status, body = await admin.json(path, "POST", Origin="http://evil.example", Content_Type="text/plain")
            assert (status, "X-Flotilla" in body["error"]) == (403, True)
        assert admin.pool.nodes["n3000"].state is State.JOINING
        assert (await admin.ask("/api/nodes/n3000/drain", "OPTIONS", Origin="http://evil.example"))[0] == 405

    served(tmp_path, check)


def test_beyond_loopback_without_a_token_only_probes_and_prometheus_are_answered(tmp_path: Path) -> None:
    """And whoever else asks is told what to set."""

    async def main() -> None:
        async with serving(tmp_path, admin="0.0.0.0:8081") as admin:
            assert (await admin.ask("/metrics", Host="lb:8081"))[0] == 200
            assert (await admin.ask("/healthz", Host="lb:8081"))[0] == 503
            for path in ("/", "/dashboard.js", "/api/nodes", "/api/overview"):
                status, body = await admin.json(path, Host="lb:8081")
                assert (status, "lb.admin_token" in body["error"]) == (403, True)

    asyncio.run(main())


def test_with_a_token_the_page_is_there_and_all_that_it_shows_needs_the_token(tmp_path: Path) -> None:
    """401 says how to show it (RFC 6750 3)."""

    async def main() -> None:
        async with serving(tmp_path, admin="0.0.0.0:8081", admin_token=TOKEN) as admin:
            assert (await admin.ask("/"))[0] == 200
            for path in ("/api/nodes", "/api/overview", "/api/history", "/api/events"):
                status, headers, _ = await admin.ask(path)
                assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="flotilla"')
                assert (await admin.json(path, Authorization=f"Bearer {TOKEN}"))[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize("path", sorted(PAGES))
def test_the_page_and_its_parts_may_do_nothing_but_what_they_must(tmp_path: Path, path: str) -> None:
    """Our own scripts and styles only; in nobody's frame; asked for anew each time."""

    async def check(admin: Admin) -> None:
        status, headers, text = await admin.ask(path)
        assert (status, headers["Content-Type"]) == (200, f"{PAGES[path][1]}; charset=utf-8")
        policy = headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-cache"
        assert "http://" not in text.replace("http://www.w3.org/", "")
        assert path == "/api/openapi.json" or "https://" not in text

    served(tmp_path, check)


def test_the_overview_is_all_that_the_page_shows(tmp_path: Path) -> None:
    """Nodes with their rates, sums over them, workers, Redis."""

    async def check(admin: Admin) -> None:
        status, body = await admin.json("/api/overview")
        assert (status, body["sample"], body["redis"]["state"]) == (200, None, "none")
        admin.pool.seen([record("n3000", connections=4, users=3, uptime_s=1.0)])
        admin.history.sample(1.0)
        admin.pool.seen([record("n3000", connections=5, users=3, messages_in=6, messages_out=8, uptime_s=3.0)])
        admin.history.sample(2.0)
        admin.metrics.rejected("no_node")
        status, body = await admin.json("/api/overview")
        assert (body["totals"]["connections"], body["totals"]["users"]) == (5, 3)
        assert body["totals"]["rejected"] == {"no_node": 1}
        assert body["sample"] == {
            "at": 2.0,
            "connections": 5,
            "messages_in_per_s": 3.0,
            "messages_out_per_s": 4.0,
            "loop_lag_ms": 0.0,
        }
        [node] = body["nodes"]
        assert (node["messages_in_per_s"], node["messages_out_per_s"]) == (3.0, 4.0)
        assert [worker["pid"] for worker in body["workers"]] == [os.getpid()]
        _, columns = await admin.json("/api/history")
        assert columns == {
            "at": [1.0, 2.0],
            "connections": [4, 5],
            "messages_in_per_s": [0.0, 3.0],
            "messages_out_per_s": [0.0, 4.0],
            "loop_lag_ms": [0.0, 0.0],
        }

    served(tmp_path, check)
