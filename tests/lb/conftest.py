"""Fixtures for tests of the balancer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.support.access_lines import Lines, access_lines

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
"""Runs a test's `main` in an event loop of its own."""


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run on each event loop that production may have; asyncio's own in debug mode."""
    is_uvloop = request.param == "uvloop"

    def run_main(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        factory = uvloop.new_event_loop if is_uvloop else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory, debug=not is_uvloop) as runner:
            runner.run(main())

    return run_main


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Give the access lines of a test."""
    with access_lines() as found:
        yield found
