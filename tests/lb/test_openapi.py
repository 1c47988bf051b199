"""The API's description is valid, and is what the API does: each route, each status, each field of real answers."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from cluster.config import MOST_DRAIN_S
from cluster.rundir import SUPERVISOR
from lb import pages
from lb.admin import MOST_BODY_BYTES
from tests.lb.test_admin import Admin, record, rise, serving
from tests.support.openapi import Description

DESCRIPTION = Description(json.loads(Path(pages.__file__).parent.joinpath("dashboard", "openapi.json").read_text()))

GETS = ("/healthz", "/metrics", "/api/nodes", "/api/overview", "/api/history", "/api/events", "/api/openapi.json")
DRAIN, UNDRAIN = "/api/nodes/{node}/drain", "/api/nodes/{node}/undrain"
HEADER = {"X-Flotilla": "1"}


class Answers:
    """Compares answers with their descriptions, and remembers which were seen."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.seen: set[tuple[str, str, int]] = set()

    async def ask(
        self,
        admin: Admin,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        node: str = "n3000",
    ) -> int:
        method = "post" if path in (DRAIN, UNDRAIN) else "get"
        status, told, text = await admin.send(path.replace("{node}", node), method.upper(), headers, body)
        kind = told["Content-Type"].partition(";")[0]
        value = text if kind == "text/plain" else json.loads(text)
        self.wrong += DESCRIPTION.wrong(path, method, status, value, kind)
        self.seen.add((path, method, status))
        return status


def fill(admin: Admin) -> None:
    """Let there be something of everything: nodes that say much and nodes that say nothing, a sample, children."""
    admin.pool.add_static("10.0.0.5", 3000)
    admin.pool.seen([record("n3000", connections=4, users=3, loop_lag_ms=0.5)])
    rise(admin.pool, "n3000")
    admin.history.sample(1.0)
    admin.metrics.rejected("no_node")
    children = [{"name": "n3000", "state": "waiting"}, {"name": "n3001", "state": "given_up", "reason": "x"}]
    admin.run_dir.publish(SUPERVISOR, {"pid": 1, "children": children})


def test_the_description_is_valid() -> None:
    """By the validator that others use: whoever makes a client of it can."""
    assert [str(each) for each in OpenAPIV31SpecValidator(DESCRIPTION.document).iter_errors()] == []


def test_every_route_is_described_and_every_description_has_its_route(tmp_path: Path) -> None:
    """What is not described nobody can use, and what is not there nobody should."""

    async def main() -> None:
        async with serving(tmp_path) as admin:
            _, body = await admin.json("/nowhere")
            files = set(pages.PAGES) - {"/api/openapi.json"}
            assert set(body["paths"]) - files == set(DESCRIPTION.paths)
            for path, methods in DESCRIPTION.paths.items():
                _, allowed = await admin.json(path.replace("{node}", "n3000"), "PATCH", X_Flotilla="1")
                assert {method.upper() for method in methods} == set(allowed["allowed"]) - {"HEAD"}

    asyncio.run(main())


def test_every_answer_that_is_described_is_given_as_described(tmp_path: Path) -> None:
    """Every status of every route, and no other: over real HTTP, with each field as the schema says."""
    answers = Answers()

    async def main() -> None:
        await everything_asked_by_an_operator(answers, tmp_path)
        await everybody_turned_away(answers, tmp_path)

    asyncio.run(main())
    assert answers.wrong == []
    assert set(DESCRIPTION.answers()) - answers.seen == set()


async def everything_asked_by_an_operator(answers: Answers, directory: Path) -> None:
    run_dir = directory / "run"
    run_dir.mkdir()
    async with serving(run_dir) as admin:
        for filled in (False, True):
            if filled:
                fill(admin)
            for path in GETS:
                await answers.ask(admin, path)
        assert await answers.ask(admin, DRAIN, b'{"drain_s": 60}', headers=HEADER) == 200
        assert await answers.ask(admin, "/api/nodes") == 200
        assert await answers.ask(admin, "/healthz") == 503
        assert await answers.ask(admin, UNDRAIN, headers=HEADER) == 200
        assert await answers.ask(admin, DRAIN, b'{"drain_s": "soon"}', headers=HEADER) == 400
        assert await answers.ask(admin, DRAIN, b" " * (MOST_BODY_BYTES + 1), headers=HEADER) == 413
        for path in (DRAIN, UNDRAIN):
            assert await answers.ask(admin, path, headers=HEADER, node="nobody") == 404
        shutil.rmtree(run_dir)
        for path in (DRAIN, UNDRAIN):
            assert await answers.ask(admin, path, headers=HEADER) == 503
    run_dir.mkdir()
    async with serving(run_dir) as admin:
        rise(admin.pool, "n3000")
        assert await answers.ask(admin, "/healthz") == 200


async def everybody_turned_away(answers: Answers, directory: Path) -> None:
    paths = (*GETS, DRAIN, UNDRAIN)
    async with serving(directory) as admin:
        for path in paths:
            assert await answers.ask(admin, path, headers={"Host": "evil.example", **HEADER}) == 421
        for path in (DRAIN, UNDRAIN):
            assert await answers.ask(admin, path) == 403
    async with serving(directory, admin="0.0.0.0:8081") as admin:
        for path in paths:
            assert await answers.ask(admin, path, headers=HEADER) == (200 if path == "/metrics" else _closed(path))
    async with serving(directory, admin_token="x" * 16) as admin:
        for path in paths:
            is_open = path in ("/healthz", "/metrics", "/api/openapi.json")
            status = await answers.ask(admin, path, headers={"Authorization": "Bearer " + "y" * 16, **HEADER})
            assert (status == 401) is not is_open
            assert await answers.ask(admin, path, headers={"Authorization": "Bearer " + "x" * 16}) != 401


def _closed(path: str) -> int:
    return 503 if path == "/healthz" else 403


def test_the_longest_time_that_is_described_is_the_longest_that_is_taken() -> None:
    """One number in two places."""
    body = DESCRIPTION.paths[DRAIN]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["drain_s"]["maximum"] == MOST_DRAIN_S


EVENT = {"at": 1.5, "worker": 0, "kind": "node", "reason": "x", "node": "", "before": "", "state": "", "signal": ""}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: {**event, "at": "now"},
        lambda event: {**event, "more": 1},
        lambda event: {"at": 1.5},
        lambda event: {**event, "worker": -1},
        lambda event: {**event, "worker": True},
    ],
    ids=["type", "unknown", "missing", "minimum", "boolean"],
)
def test_the_check_finds_what_is_not_as_described(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """A validator that lets everything pass would prove nothing."""
    assert DESCRIPTION.wrong("/api/events", "get", 200, {"events": [EVENT]}) == []
    assert DESCRIPTION.wrong("/api/events", "get", 200, {"events": [spoil(EVENT)]}) != []
    assert DESCRIPTION.wrong("/api/events", "get", 500, {"events": []}) == ["get /api/events 500: not described"]
    assert DESCRIPTION.wrong("/api/events", "get", 200, "", "text/plain") != []
