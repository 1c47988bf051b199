"""`benchmarks/storm.py` as a user runs it, briefly, how it reports, and what it calls a fault."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import storm
from benchmarks.measure import BenchmarkError
from benchmarks.sio.crowds import crowd
from benchmarks.sio.peers import BALANCER, REDIS, SERVERS
from benchmarks.sio.results import Steady, Stormed
from benchmarks.storm import CLIENTS, Phase, Round, faults_in, report
from tests.benchmarks.scripts import short_run
from tests.support.ports import free_port

STEADY = Steady(
    round_trips=1000,
    seconds=1.0,
    lost=0,
    skipped=0,
    changed=0,
    dropped=(),
    p50_us=500.0,
    p90_us=900.0,
    p99_us=1000.0,
    longest_us=2000.0,
    generator_cpu_percent=5.0,
)
STORMED = Stormed(
    came=120, let_in=60, refused=40, failed=(), seconds=1.0, p50_us=1e6, p99_us=2e6, generator_cpu_percent=5.0
)
CPU = {SERVERS: 30.0, BALANCER: 1.0, REDIS: 0.5, CLIENTS: 12.0}


def one_round(p99_us: float = 1000.0, newcomers: Stormed = STORMED, **changes: Any) -> Round:
    steady = replace(STEADY, p99_us=p99_us, **changes)
    return Round(Phase(STEADY, CPU), Phase(steady, CPU | {BALANCER: 20.0}), newcomers)


SHORT = ["--idle", "30", "--busy", "10", "--rate", "50", "--limit", "20", "--rounds", "1", "--seconds", "1"]


def test_a_short_run_loses_nobody_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """All who are there stay; of twice as many as may come in, some come in and nobody meets anything but 503."""
    said, _, found = short_run(tmp_path, "storm.py", *SHORT)
    assert "budget: p99 in the storm / in calm ≤ 1.5, found" in said
    (only,) = found["rounds"]
    assert found["gone"] == []
    for name in ("calm", "storm"):
        assert only[name]["steady"]["round_trips"] >= 40
        assert only[name]["cpu_percent"][SERVERS] > 0
    newcomers = only["newcomers"]
    assert newcomers["failed"] == []
    assert 0 < newcomers["let_in"] < newcomers["came"]


def options(*arguments: str) -> Any:
    return storm._options(arguments)


@pytest.mark.parametrize(("p99_us", "verdict"), [(1400.0, "found 1.40: kept"), (1600.0, "found 1.60: MISSED")])
def test_the_report_says_whether_those_who_are_there_noticed(p99_us: float, verdict: str) -> None:
    """The ratio within each round, and then the median: one bad round does not decide."""
    rounds = [one_round(p99_us), one_round(p99_us), one_round(50_000.0)]
    lines = list(report({"commit": "abc"}, options(), rounds))
    assert f"budget: p99 in the storm / in calm ≤ 1.5, {verdict}" in lines
    (balancer,) = [line for line in lines if line.startswith("  balancer")]
    assert balancer.split()[1:] == ["1.0", "(1.0–1.0)", "20.0", "(20.0–20.0)", "20.00", "(20.00–20.00)"]
    (refused,) = [line for line in lines if line.startswith("  refused (503)")]
    assert refused.split()[2:] == ["40", "(40–40)"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: one_round(lost=2), "round 1, storm: 1000 events acknowledged, 2 not, 0 with something else"),
        (lambda: one_round(round_trips=0), "round 1, storm: 0 events acknowledged, 0 not, 0 with something else"),
        (lambda: one_round(dropped=("client 3: gone",)), "round 1, storm: client 3: gone"),
        (
            lambda: one_round(newcomers=replace(STORMED, failed=("2 × closed by the server",))),
            "round 1, new clients: 2 × closed by the server",
        ),
        (lambda: one_round(newcomers=replace(STORMED, let_in=0)), "round 1: nobody was let in"),
    ],
    ids=["lost", "silent", "dropped", "failed", "nobody"],
)
def test_what_must_not_happen_is_told(made: Callable[[], Round], said: str) -> None:
    """A line each."""
    assert list(faults_in([one_round()])) == []
    assert list(faults_in([made()])) == [said]


def test_a_fault_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a client that only listened, and is gone at the end."""
    monkeypatch.setattr(storm, "_rounds", lambda _: ([one_round()], ["client 7: closed by the server"]))
    assert storm.main([]) == 1
    assert "client 7: closed by the server" in capsys.readouterr().err


def test_more_clients_than_there_may_be_descriptors_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is started."""
    assert storm.main(["--idle", "1000000000"]) == 2
    assert "open files are needed" in capsys.readouterr().err


def test_real_time_is_asked_for_the_nodes_and_the_busy_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not have it is told so in one line."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, _: asked.append((pid, policy)))
    storm._prefer([11, 12])
    assert asked == [(11, os.SCHED_RR), (12, os.SCHED_RR)]

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(BenchmarkError, match="--real-time needs root"):
        storm._prefer([11])


@pytest.mark.parametrize("module", ["steady", "newcomers"])
def test_clients_of_a_server_that_is_not_there_say_so(module: str) -> None:
    """Those who should be there cannot be; of those who want in, each meets that."""
    if module == "steady":
        with crowd("steady", free_port(), idle=2) as clients, pytest.raises(BenchmarkError, match="cannot connect"):
            clients.await_open(1.0)
    else:
        with crowd("newcomers", free_port(), rate=1000) as clients:
            result = clients.ended()
        assert (result.let_in, result.refused) == (0, 0)
        assert all(os.strerror(111) in reason for reason in result.failed)


def test_clients_that_were_killed_are_told_of() -> None:
    """Rather than waited for."""
    with crowd("newcomers", free_port(), rate=1) as clients:
        os.kill(clients.pid, 9)
        with pytest.raises(BenchmarkError, match="the clients have failed"):
            clients.ended()
