"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.valkey import Valkey, running_valkey

# How long one example takes depends on who else uses the machine.
settings.register_profile("flotilla", deadline=None)
settings.register_profile("long", deadline=None, max_examples=100_000)
settings.load_profile("flotilla")


def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes run tests: one more than there are processors, as most tests wait for other processes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A real, empty Valkey of this test's own."""
    with running_valkey() as server:
        yield server
