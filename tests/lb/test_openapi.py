"""The API's description is what the API does: each route, each status, each field of real answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.rundir import SUPERVISOR
from lb import pages
from tests.lb.test_admin import Admin, record, rise, served
from tests.support.openapi import Description

DESCRIPTION = Description(json.loads(Path(pages.__file__).parent.joinpath("dashboard", "openapi.json").read_text()))
PATHS: dict[str, dict[str, Any]] = DESCRIPTION.document["paths"]


def wrong(path: str, method: str, status: int, body: Any) -> list[str]:
    """Return all in which an answer differs from its description."""
    responses = PATHS[path][method]["responses"]
    if str(status) not in responses:
        return [f"{method} {path}: {status} is not described"]
    [content] = DESCRIPTION.at(responses[str(status)])["content"].values()
    return list(DESCRIPTION.problems(content["schema"], body, f"{method} {path} {status}"))


def test_every_route_is_described_and_every_description_has_its_route(tmp_path: Path) -> None:
    """What is not described nobody can use, and what is not there nobody should."""

    async def check(admin: Admin) -> None:
        _, body = await admin.json("/nowhere")
        files = set(pages.PAGES) - {"/api/openapi.json"}
        assert set(body["paths"]) - files == set(PATHS)
        for path, methods in PATHS.items():
            _, allowed = await admin.json(path.replace("{node}", "n3000"), "PATCH", X_Flotilla="1")
            assert {method.upper() for method in methods} == set(allowed["allowed"]) - {"HEAD"}

    served(tmp_path, check)


def test_real_answers_are_as_described(tmp_path: Path) -> None:
    """With nodes that say much and nodes that say nothing, before the first sample and after it."""

    async def check(admin: Admin) -> None:
        found: list[str] = []
        for _ in range(2):
            for path in ("/healthz", "/api/nodes", "/api/overview", "/api/history", "/api/events"):
                found += wrong(path, "get", *await admin.json(path))
            admin.pool.add_static("10.0.0.5", 3000)
            admin.pool.seen([record("n3000", connections=4, users=3, loop_lag_ms=0.5)])
            rise(admin.pool, "n3000")
            admin.history.sample(1.0)
            admin.metrics.rejected("no_node")
            children = [{"name": "n3000", "state": "waiting"}, {"name": "n3001", "state": "given_up", "reason": "x"}]
            admin.run_dir.publish(SUPERVISOR, {"pid": 1, "children": children})
        assert found == []

    served(tmp_path, check)


def test_orders_are_answered_as_described(tmp_path: Path) -> None:
    """Given, taken back, refused."""

    async def check(admin: Admin) -> None:
        found: list[str] = []
        statuses = []
        for path, node in (
            ("/api/nodes/{node}/drain", "n3000"),
            ("/api/nodes/{node}/undrain", "n3000"),
            ("/api/nodes/{node}/drain", "nobody"),
            ("/api/nodes/{node}/undrain", "nobody"),
        ):
            status, body = await admin.json(path.replace("{node}", node), "POST", X_Flotilla="1")
            found += wrong(path, "post", status, body)
            statuses.append(status)
            if (status, path.endswith("/drain")) == (200, True):
                found += wrong("/api/nodes", "get", *await admin.json("/api/nodes"))
        assert (found, statuses) == ([], [200, 200, 404, 404])

    served(tmp_path, check)


@pytest.mark.parametrize(
    ("headers", "status"), [({"Host": "evil.example"}, 421), ({"Content_Type": "text/plain"}, 403)]
)
def test_who_is_turned_away_gets_an_error_as_described(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """By the gate."""

    async def check(admin: Admin) -> None:
        told, body = await admin.json("/api/nodes/n3000/drain", "POST", **headers)
        assert (told, wrong("/api/nodes/{node}/drain", "post", told, body)) == (status, [])

    served(tmp_path, check)


def test_the_check_finds_what_is_not_as_described() -> None:
    """A validator that lets everything pass would prove nothing."""
    good = {
        "events": [
            {"at": 1.5, "worker": 0, "kind": "node", "reason": "x", "node": "", "before": "", "state": "", "signal": ""}
        ]
    }
    assert wrong("/api/events", "get", 200, good) == []
    for spoilt in (
        {"events": [good["events"][0] | {"at": "now"}]},
        {"events": [good["events"][0] | {"more": 1}]},
        {"events": [{"at": 1.5}]},
        {"events": [good["events"][0] | {"worker": -1}]},
        {"events": [good["events"][0] | {"worker": True}]},
        {},
    ):
        assert wrong("/api/events", "get", 200, spoilt) != []
    assert wrong("/api/events", "get", 500, good) == ["get /api/events: 500 is not described"]
    assert wrong("/api/overview", "get", 200, {"sample": 5, "redis": {"state": "dead"}}) != []
