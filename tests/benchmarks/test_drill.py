"""`benchmarks/drill.py` as a user runs it, with short times; and what it promises."""

from __future__ import annotations

from pathlib import Path

from benchmarks.drill import Outcome, bounds, table
from cluster.config import Health
from tests.benchmarks.scripts import short_run


def test_a_fault_is_measured_and_no_client_fails(tmp_path: Path) -> None:
    """The exit status would say so."""
    short = ("--rounds", "1", "--only", "accepts and hangs", "--interval", "0.3", "--timeout", "1", "--fall", "2")
    said, _, found = short_run(tmp_path, "drill.py", *short)
    assert "a silent node is out after 2.3 s at the latest" in said
    [outcome] = found["accepts and hangs"]
    assert (outcome["failed"], outcome["sent_there"]) == (0, 0)
    assert outcome["clients"] > 10


def test_the_bounds_are_those_of_the_documentation() -> None:
    """docs/health.md gives them for the default settings."""
    assert [round(each, 1) for each in bounds(Health())] == [8.6, 2.2]
    out_s, back_s = bounds(Health(interval_s=10, timeout_s=20, rise=3, fall=2))
    assert (round(out_s, 3), round(back_s, 3)) == (51, 42)


def test_the_table_has_the_median_of_all_rounds_and_the_sum_of_all_clients() -> None:
    """A line for each fault."""
    rounds = [Outcome(out_s, 1.0, 100, 1, 3.0, 0) for out_s in (5.0, 7.0, 6.0)]
    row = table({"hangs": rounds}).splitlines()[1]
    assert row.split() == ["hangs", "6.0", "(5.0–7.0)", "1.0", "(1.0–1.0)", "300,", "3", "3.0", "(3.0–3.0)"]
