"""`benchmarks/survival.py` as a user runs it, briefly; what it takes for a fault, and that it sees one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import survival
from benchmarks.results import TalkResult
from benchmarks.stacks import HANDOFF
from benchmarks.survival import faults_in, report
from tests.benchmarks.scripts import short_run

SHORT = ("--connections", "30", "--rate", "300", "--kills", "2", "--pause", "0.3")
RESULT = TalkResult(
    connections=30,
    sent=900,
    dropped=0,
    lost=0,
    duplicated=0,
    reordered=0,
    changed=0,
    slowest_echo_s=0.01,
    arrived=40,
    refused=0,
    cut=0,
    rejected=0,
    broken=0,
    timed_out=0,
    longest_wait_s=0.6,
    median_wait_s=0.002,
)


def test_nothing_is_lost_when_the_worker_is_killed_twice(tmp_path: Path) -> None:
    """Handed over connections go on, and new ones wait for the next worker."""
    said, _, found = short_run(tmp_path, "survival.py", *SHORT)
    result = found["result"]
    assert result["sent"] > 100
    assert (result["dropped"], result["lost"], result["refused"]) == (0, 0, 0)
    assert result["arrived"] > 5
    assert result["longest_wait_s"] > 0.1  # the restart of a worker takes longer than that
    assert len(found["gaps_s"]) == 2
    assert "0  dropped" in said


def test_what_a_tunnel_loses_is_seen(tmp_path: Path) -> None:
    """The control: the same run through a balancer that carries the bytes loses all, and that is the exit status."""
    _, errors, found = short_run(tmp_path, "survival.py", *SHORT, "--path", "tunnel", status=1)
    assert found["result"]["dropped"] == 30
    assert "30 connections dropped" in errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropped": 1}, "1 connections dropped"),
        ({"lost": 2}, "2 messages lost"),
        ({"duplicated": 3}, "3 messages doubled"),
        ({"reordered": 4}, "4 messages out of order"),
        ({"changed": 5}, "5 connections on which something else came"),
        ({"refused": 6}, "6 new connections refused"),
        ({"rejected": 7}, "7 new connections answered with something else than 101"),
        ({"broken": 8}, "8 new connections lost after their 101"),
        ({"timed_out": 9}, "9 new connections that waited in vain"),
        ({"sent": 0}, "no message was sent"),
    ],
)
def test_each_fault_is_told(changes: dict[str, int], said: str) -> None:
    """With how often."""
    assert list(faults_in(replace(RESULT, **changes))) == [said]  # type: ignore[arg-type]


def test_a_request_that_died_with_the_worker_is_told_and_is_no_fault() -> None:
    """No process can answer after SIGKILL; the client may try again."""
    options = argparse.Namespace(kills=2, path=HANDOFF, connections=30, rate=300.0, arrivals=20.0)
    result = replace(RESULT, cut=1, reasons=("ConnectionResetError",))
    assert list(faults_in(result)) == []
    assert list(faults_in(replace(result, lost=1))) == ["1 messages lost", "  a new connection: ConnectionResetError"]
    assert any(line.split()[:4] == ["1", "closed", "before", "an"] for line in report({}, options, result, [0.5]))


def test_a_node_that_was_restarted_is_a_fault() -> None:
    """It was not to be killed."""
    assert list(faults_in(RESULT, node_restarts=1)) == ["1 restarts of the node"]


def test_more_connections_than_a_process_may_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started, with status 2."""
    assert survival.main(["--connections", "100000000"]) == 2
    assert "open files are needed" in capsys.readouterr().err
