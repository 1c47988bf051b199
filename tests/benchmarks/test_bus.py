"""benchmarks/bus.py and benchmarks/outage.py, run as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bus import OURS, PYTHON
from benchmarks.outage import Heard, judged
from tests.benchmarks.scripts import short_run

pytestmark = pytest.mark.timeout(120)


def test_a_message_costs_nothing_where_nobody_wants_it(tmp_path: Path) -> None:
    """And less than python-socketio's where somebody does; nothing is lost."""
    options = ["--rounds", "1", "--seconds", "2", "--rate", "500"]
    printed, _, figures = short_run(tmp_path, "bus.py", *options)
    assert "node without" in printed
    [ours], [theirs] = figures[OURS], figures[PYTHON]
    assert ours["lost"] == 0
    # Of 500 events a second: what else a node does in two seconds comes and goes by some hundred µs.
    assert abs(ours["without_us"]) < 5 < theirs["without_us"]
    assert ours["emitting_us"] < 0.7 * theirs["emitting_us"], "a short run on a busy machine; 0.3 is the budget"


def test_nothing_is_lost_when_redis_is_killed(tmp_path: Path) -> None:
    """Three nodes, 200 messages a second, the default outbox: each message arrives once, in order."""
    _, _, figures = short_run(tmp_path, "outage.py", "--ours", "--outage", "3")
    outcome = figures[OURS]
    assert outcome["expected"] > 3000
    assert (outcome["lost"], outcome["doubled"], outcome["reordered"]) == (0, 0, 0)
    assert outcome["slowest_emit_s"] < 1, "emitting never waits for Redis"


def test_losses_doubles_and_disorder_are_found() -> None:
    """Else the figure would mean nothing."""
    heard = Heard({"a": [0, 1, 1, 3, 2]})
    outcome = judged([heard], ["a", "b"], 5, 0.0)
    assert (outcome.expected, outcome.lost, outcome.doubled, outcome.reordered) == (10, 6, 1, 1)
