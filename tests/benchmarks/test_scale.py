"""benchmarks/scale.py, run as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import Cost, judged, slope
from tests.benchmarks.scripts import short_run

pytestmark = pytest.mark.timeout(120)


def test_a_message_costs_nothing_on_nodes_without_members(tmp_path: Path) -> None:
    """It goes to as many nodes as have members, with three nodes and with twelve; nothing is lost."""
    options = ["--nodes", "3,12", "--messages", "300", "--rooms", "40", "--clients", "40"]
    printed, _, figures = short_run(tmp_path, "scale.py", *options)
    assert "12 nodes: members of the room" in printed
    for costs in figures["costs"].values():
        for cost in costs:
            assert cost["lost"] == 0
            assert cost["received"] == pytest.approx(cost["with_members"])
    assert figures["costs"]["12"][0]["received"] <= 1, "a room of two is on one other node at most"


def test_a_loss_or_a_message_too_many_is_found() -> None:
    """Else the figures would mean nothing."""
    fine = Cost("two", 1.0, 1.0, 1.0, 1.0, 1.0, lost=0)
    assert judged({3: [fine]}) == 0
    assert judged({3: [fine, fine, Cost("two", 1.0, 1.0, 1.0, 1.0, 1.0, lost=1)]}) == 1
    assert judged({3: [Cost("two", 1.0, 2.0, 1.0, 1.0, 1.0, lost=0)]}) == 1


def test_the_slope_is_that_of_the_line() -> None:
    """Least squares; points above each other have none."""
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx((1, 2))
    assert slope([(1, 1), (1, 3)]) == (2, 0)
