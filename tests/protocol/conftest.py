"""Where the protocol suites run: against a node itself, and through the balancer, handed over and tunnelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.background import in_background
from tests.support.nodes import running_node
from tests.support.stack import running_stack

APPS = "tests.support.engine_app"


@asynccontextmanager
async def engine_served(directory: Path, way: str, app: str) -> AsyncIterator[str]:
    """Serve Engine.IO alone, by processes as a user starts them; gives the URL."""
    if way == "direct":
        async with running_node(directory, "--redis", "none", "--app", app) as node:
            yield node.url
        return
    handoff = "auto" if way == "handoff" else "never"
    lb = {"handoff": handoff, "health": {"interval_s": 0.5, "timeout_s": 1.0, "fall": 20, "websocket_path": ""}}
    async with running_stack(directory, nodes=1, redis="none", lb=lb, node_options={"app": app}) as stack:
        yield stack.url


@pytest.fixture(scope="session", params=["direct", "handoff", "tunnel"])
def way(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


@pytest.fixture(scope="session")
def engine_url(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An echo with a short heartbeat (tests.support.engine_app)."""
    directory = tmp_path_factory.mktemp(f"engine-{way}")
    with in_background(lambda: engine_served(directory, way, f"{APPS}:sio")) as url:
        yield url


@pytest.fixture(scope="session")
def calm_url(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An echo whose heartbeat does not get into the way of a test."""
    directory = tmp_path_factory.mktemp(f"calm-{way}")
    with in_background(lambda: engine_served(directory, way, f"{APPS}:slow")) as url:
        yield url
