"""`benchmarks/connections.py` as a user runs it, briefly, and how it counts and reports."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import connections
from benchmarks.connections import NAMES, NGINX, Round, losses_in, most_connections, report
from benchmarks.results import IdleResult
from benchmarks.stacks import HANDOFF, TUNNEL
from tests.benchmarks.scripts import short_run

IDLE = IdleResult(
    connections=20,
    lost=0,
    pss_kib_before=5120,
    rss_kib_before=9000,
    pss_kib_per_connection=16.0,
    rss_kib_per_connection=17.0,
    node_pss_kib_per_connection=14.0,
)


def measured(count: int = 20) -> Round:
    return {
        NGINX: IDLE,
        TUNNEL: replace(IDLE, pss_kib_per_connection=4.0),
        HANDOFF: replace(IDLE, pss_kib_per_connection=0.16, connections=count),
    }


@pytest.mark.usefixtures("_nginx")
def test_a_short_run_measures_all_three_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every connection is held; node and balancer are told apart, whoever started the node."""
    said, _, found = short_run(tmp_path, "connections.py", "--connections", "600")
    assert "KiB per connection" in said
    (each,) = found["rounds"]
    assert set(each) == set(NAMES)
    assert all((result["connections"], result["lost"]) == (600, 0) for result in each.values())
    # A node keeps request, transport and handler of each: some 14 KiB.  PSS falls by MiB when somebody else starts
    # an interpreter that shares this one's pages, hence so many connections and so low a bound; RSS does not.
    assert all(result["node_pss_kib_per_connection"] > 1 for result in each.values())
    assert each[NGINX]["rss_kib_per_connection"] > 4


def test_a_balancer_that_carries_bytes_gets_no_more_than_its_descriptors_hold() -> None:
    """Two for each; one that hands over needs none."""
    assert most_connections(NGINX, 10_000, 20_000) == 9950
    assert most_connections(TUNNEL, 5_000, 20_000) == 5_000
    assert most_connections(HANDOFF, 10_000, 10_100) == 10_000


def test_the_report_names_ratio_node_and_count() -> None:
    """And says why there were fewer connections in front of some."""
    options = argparse.Namespace(rounds=1)
    lines = list(report({"commit": "abc"}, options, [measured(count=30)]))
    (pss,) = [line for line in lines if line.startswith("  balancer, PSS")]
    assert pss.split()[2:] == ["16.000", "4.000", "0.250", "0.160", "0.010"]
    assert any(line.split() == ["connections", "20", "20", "30"] for line in lines)
    assert "two descriptors a connection" in lines[-1]
    assert "two descriptors" not in list(report({}, options, [measured()]))[-1]


def test_closed_connections_are_told_and_are_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1, with the figures still printed."""
    lossy = measured() | {TUNNEL: replace(IDLE, lost=2)}
    monkeypatch.setattr(connections, "_round", lambda *_: lossy)
    assert connections.main(["--nginx", sys.executable, "--connections", "20"]) == 1
    output = capsys.readouterr()
    assert "tunnel: 2 of 20 idle connections were closed" in output.err
    assert "KiB per connection" in output.out
    assert list(losses_in([measured()])) == []


def test_more_connections_than_a_process_may_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started, with status 2."""
    assert connections.main(["--nginx", sys.executable, "--connections", "100000000"]) == 2
    assert "open files are needed" in capsys.readouterr().err
