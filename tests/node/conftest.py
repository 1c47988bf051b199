"""Fixtures for tests of the node."""

from tests.lb.conftest import run

__all__ = ["run"]
