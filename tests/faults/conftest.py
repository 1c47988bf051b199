"""Fixtures of the fault drills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.support.background import in_background
from tests.support.drill import six_nodes
from tests.support.nodes import NodeProcess


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[NodeProcess]]:
    """Six real nodes, for all tests of a module: what becomes faulty is the way there."""
    directory = tmp_path_factory.mktemp("nodes")
    with in_background(lambda: six_nodes(directory)) as running:
        yield running
