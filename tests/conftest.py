"""Fixtures that every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.valkey import Valkey, running_valkey

# How long one example takes depends on who else uses the machine.
settings.register_profile("flotilla", deadline=None)
settings.register_profile("long", deadline=None, max_examples=100_000)
settings.load_profile("flotilla")


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A real, empty Valkey of this test's own."""
    with running_valkey() as server:
        yield server
