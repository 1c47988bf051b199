"""`benchmarks/handshakes.py` as a user runs it, briefly, and how it reports."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import handshakes
from benchmarks.handshakes import NAMES, NGINX, Round, failures_in, report
from benchmarks.results import HandshakeResult
from benchmarks.stacks import HANDOFF, TUNNEL
from tests.benchmarks.scripts import short_run

RESULT = HandshakeResult(
    handshakes=100,
    failed=0,
    seconds=0.5,
    balancer_cpu_us=100.0,
    node_cpu_us=150.0,
    p50_us=800.0,
    p99_us=2000.0,
    generator_cpu_percent=20.0,
)


def measured(**changes: float) -> Round:
    return {NGINX: RESULT, TUNNEL: RESULT, HANDOFF: replace(RESULT, **changes)}  # type: ignore[arg-type]


@pytest.mark.usefixtures("_nginx")
def test_a_short_run_measures_all_three_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every handshake succeeds, balancer and node both work for it, and nobody is counted at the end."""
    said, _, found = short_run(tmp_path, "handshakes.py", "--handshakes", "60", "--at-once", "5", "--rounds", "2")
    assert "CPU µs per handshake" in said
    assert found["still_counted"] == {TUNNEL: 0, HANDOFF: 0}
    for each in found["rounds"]:
        assert set(each) == set(NAMES)
        assert all((result["handshakes"], result["failed"]) == (60, 0) for result in each.values())
        assert all(result["balancer_cpu_us"] > 1 and result["node_cpu_us"] > 1 for result in each.values())


def test_the_report_sums_balancer_and_node_and_gives_the_ratio_within_rounds() -> None:
    """A round in which both are slow does not move it."""
    slow = {name: replace(RESULT, balancer_cpu_us=200.0, node_cpu_us=300.0) for name in NAMES}
    options = argparse.Namespace(handshakes=100, at_once=5, rounds=3, wsload=None)
    rounds = [measured(balancer_cpu_us=75.0), measured(balancer_cpu_us=50.0), slow]
    lines = list(report({"commit": "abc"}, options, rounds))
    (both,) = [line for line in lines if line.startswith("  balancer + node")]
    assert both.split()[3:] == [
        *["250", "(250–500)"],
        *["250", "(250–500)", "1.00", "(1.00–1.00)"],
        *["225", "(200–500)", "0.90", "(0.80–1.00)"],
    ]
    (rate,) = [line for line in lines if line.startswith("handshakes per second")]
    assert rate.split()[3:5] == ["200", "(200–200)"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"failed": 3}, "handoff: 3 of 103 handshakes failed"),
        ({"handshakes": 0}, "handoff: 0 of 0 handshakes failed"),
    ],
)
def test_failed_handshakes_are_told(changes: dict[str, float], said: str) -> None:
    """With where that happened."""
    assert list(failures_in([measured(**changes)], {})) == [said]


def test_an_end_that_went_unnoticed_is_told_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A balancer that forgets to count down sends everybody elsewhere in the end."""
    monkeypatch.setattr(handshakes, "_rounds", lambda *_: ([measured()], {TUNNEL: 0, HANDOFF: 7}))
    assert handshakes.main(["--nginx", sys.executable]) == 1
    assert "handoff: 7 connections are counted after all were closed" in capsys.readouterr().err
