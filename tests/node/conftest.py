"""Fixtures for tests of the node."""

from __future__ import annotations

import pytest

from node import state_news, state_redis
from tests.lb.conftest import run

__all__ = ["run"]


@pytest.fixture
def patient_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shared state take no slow machine for a Redis that is away."""
    for module in (state_redis, state_news):
        monkeypatch.setattr(module, "WITHIN_S", 30.0)
