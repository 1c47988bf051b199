"""`benchmarks/socketio.py` as a user runs it, briefly, and how it reports."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import socketio
from benchmarks.measure import BenchmarkError
from benchmarks.sio import peers, verdict
from benchmarks.sio.peers import FLOTILLA, NODE_JS, SERVERS
from benchmarks.sio.results import Connected, Delivered, Echoed, Idle
from benchmarks.sio.verdict import Budget, Figure
from benchmarks.socketio import BURST, CONNECT, ECHO, IDLE, LONE, QUESTIONS, Round, faults_in, remarks_on, report
from tests.benchmarks.scripts import ran, short_run

ECHOED = Echoed(
    round_trips=1000,
    seconds=2.0,
    lost=0,
    changed=0,
    dropped=0,
    cpu_us=20.0,
    p50_us=900.0,
    p99_us=2000.0,
    generator_cpu_percent=50.0,
)
DELIVERED = Delivered(
    deliveries=1000,
    lost=0,
    duplicated=0,
    reordered=0,
    changed=0,
    dropped=0,
    seconds=2.0,
    late=False,
    cpu_us={SERVERS: 10.0},
    p50_us=5000.0,
    p99_us=9000.0,
    servers={"n1": 100},
    generator_cpu_percent=20.0,
)
IDLED = Idle(
    connections=50,
    dropped=0,
    pss_kib_before=50_000,
    rss_kib_before=60_000,
    pss_kib_per_connection=16.0,
    rss_kib_per_connection=17.0,
)
CONNECTED = Connected(
    connects=600,
    failed=0,
    seconds=0.5,
    cpu_us=400.0,
    p50_us=900.0,
    p99_us=4000.0,
    generator_cpu_percent=30.0,
)
THEIRS = {IDLE: IDLED, CONNECT: CONNECTED, ECHO: ECHOED, LONE: DELIVERED, BURST: DELIVERED}
OURS = THEIRS | {
    IDLE: replace(IDLED, pss_kib_per_connection=4.0),
    ECHO: replace(ECHOED, cpu_us=15.0),
    LONE: replace(DELIVERED, cpu_us={SERVERS: 6.0}),
    BURST: replace(DELIVERED, cpu_us={SERVERS: 1.0}, p99_us=1000.0),
}
ROUND: Round = {FLOTILLA: OURS, NODE_JS: THEIRS}
SETTINGS = {"rounds": 1, "seconds": 5, "size": 64, "clients": 100, "rate": 20.0, "ticks": 5.0, "burst": 10}
OPTIONS = argparse.Namespace(**SETTINGS, senders=10, idle=50, connects=600, only=QUESTIONS)

SMALL = ("--seconds", "0.4", "--clients", "20", "--senders", "4", "--idle", "60", "--connects", "30", "--size", "16")


@pytest.mark.usefixtures("_node_js")
def test_a_short_run_measures_both_sides_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The same load on both; each message reaches each client."""
    said, _, found = short_run(tmp_path, "socketio.py", *SMALL, "--rounds", "1", "--rate", "10", "--burst", "3")
    assert "of 7 budgets kept" in said
    assert "socket.io 4." in found["facts"]["peer"]
    (each,) = found["rounds"]
    for side in (FLOTILLA, NODE_JS):
        assert sorted(each[side]) == sorted(QUESTIONS)
        assert each[side][LONE]["deliveries"] == 4 * 20
        assert each[side][BURST]["deliveries"] == 2 * 3 * 20
        assert each[side][CONNECT]["connects"] == 30
        assert each[side][ECHO]["round_trips"] > 10
        assert each[side][IDLE]["connections"] == 60


@pytest.mark.usefixtures("_node_js")
def test_rounds_take_the_sides_in_turns(tmp_path: Path) -> None:
    """Whoever comes first may find a colder or a calmer machine."""
    _, _, found = short_run(tmp_path, "socketio.py", *SMALL, "--rounds", "2", "--only", "echo")
    assert list(found["rounds"][0]) == list(found["rounds"][1])[::-1] == [FLOTILLA, NODE_JS]


@pytest.mark.usefixtures("_node_js")
def test_a_node_that_loses_messages_is_told_and_is_the_exit_status(tmp_path: Path) -> None:
    """Its figures are printed all the same."""
    arguments = (*SMALL, "--rounds", "1", "--only", "echo", "--app", "tests.benchmarks.faulty:changing")
    said, warned, _ = short_run(tmp_path, "socketio.py", *arguments, status=1)
    assert "event and ack, 4 clients" in said
    assert "Flotilla, echo, round 1: 0 events acknowledged, 0 not, 4 with something else" in warned


def test_the_report_has_the_ratio_the_budget_and_whether_it_is_kept() -> None:
    """For everything that has a budget."""
    lines = list(report({"commit": "abc"}, OPTIONS, [ROUND]))
    words = {line.split("  ")[0]: line.split() for line in lines if line and not line.startswith(" ")}
    assert words["event and ack, 10 clients"][-6:] == ["15.0", "20.0", "0.75", "≤", "0.75", "kept"]
    assert words["lone broadcast, 100 clients"][-6:] == ["6.00", "10.00", "0.60", "≤", "0.5", "MISSED"]
    assert words["10 in a tick, 100 clients"][-6:] == ["1.00", "10.00", "0.10", "≤", "0.12", "kept"]
    assert words["KiB PSS each, 50 idle"][-6:] == ["4.00", "16.00", "0.25", "≤", "0.4", "kept"]
    assert words["connects per second"][-6:] == ["1200", "1200", "1.00", "≥", "1", "kept"]
    assert lines[-1] == "6 of 7 budgets kept"


def test_only_what_was_asked_is_reported() -> None:
    """And only that has been measured."""
    options = argparse.Namespace(**vars(OPTIONS) | {"only": (ECHO,)})
    only: Round = {side: {ECHO: ROUND[side][ECHO]} for side in ROUND}
    assert list(report({}, options, [only]))[-1] == "1 of 1 budgets kept"


def test_the_verdict_is_on_the_median_of_the_ratios_within_rounds() -> None:
    """A round in which both are slow does not move it; without a ratio nothing is kept."""
    kept = Figure("x", [1.0, 10.0, 100.0], [2.0, 20.0, 20.0], 1, Budget(0.5))
    assert kept.is_kept is True
    assert replace(kept, budget=Budget(0.49)).is_kept is False
    assert replace(kept, budget=Budget(0.5, at_least=True)).is_kept is True
    assert replace(kept, budget=Budget(0.51, at_least=True)).is_kept is False
    assert replace(kept, theirs=[0.0, 0.0, 0.0]).is_kept is False
    assert replace(kept, budget=None).is_kept is None
    assert "budgets" not in "\n".join(verdict.lines([replace(kept, budget=None)]))


@pytest.mark.parametrize(
    ("question", "result", "said"),
    [
        (IDLE, replace(IDLED, dropped=2), "2 of 50 idle clients dropped"),
        (CONNECT, replace(CONNECTED, failed=3), "3 of 603 connects failed"),
        (CONNECT, replace(CONNECTED, connects=0), "0 of 0 connects failed"),
        (ECHO, replace(ECHOED, lost=1), "1000 events acknowledged, 1 not, 0 with something else, 0 clients dropped"),
        (ECHO, replace(ECHOED, round_trips=0), "0 events acknowledged, 0 not"),
        (LONE, replace(DELIVERED, lost=5), "1000 messages delivered, 5 lost"),
        (LONE, replace(DELIVERED, deliveries=0), "0 messages delivered, 0 lost"),
        (BURST, replace(DELIVERED, duplicated=4), "4 came twice"),
        (BURST, replace(DELIVERED, reordered=6), "6 messages out of order"),
    ],
)
def test_whatever_went_wrong_is_told_with_side_question_and_round(question: str, result: object, said: str) -> None:
    """On either side: a peer that loses messages is no peer."""
    faulty: Round = {FLOTILLA: OURS, NODE_JS: THEIRS | {question: result}}
    (fault,) = faults_in([ROUND, faulty])
    assert fault.startswith(f"{NODE_JS}, {question}, round 2: ")
    assert said in fault


def test_a_server_that_cannot_keep_up_is_told_and_is_no_fault() -> None:
    """Its latency is then a matter of how long one waits."""
    late: Round = {FLOTILLA: OURS | {LONE: replace(DELIVERED, late=True)}, NODE_JS: THEIRS}
    assert list(faults_in([late])) == []
    (remark,) = remarks_on([late])
    assert remark.startswith("Flotilla, lone, round 1: could not keep up")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "echo,loan"), "'loan' is none of idle, connect, echo, lone, burst"),
        (("--rate", "0"), "'0' is not a number of times a second"),
        (("--ticks", "often"), "'often' is not a number of times a second"),
        (("--burst", "1"), "'1' is not a whole number of at least 2"),
        (("--node", "no-such-node"), "there is no no-such-node; install it"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """With status 2, before anything is started."""
    done = ran("socketio.py", *arguments, directory=tmp_path, scratch=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_peer_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(peers, "JS", tmp_path)
    with pytest.raises(BenchmarkError, match="npm ci --prefix benchmarks/js"):
        peers.node_program(sys.executable)


def test_scripts_beside_ours_still_find_python_socketio(tmp_path: Path) -> None:
    """Python puts a script's directory first, where our socketio.py lies."""
    script = f"import sys; sys.path[:0] = {[str(socketio_directory()), str(socketio_directory().parent)]!r}\n"
    script += "import benchmarks, socketio; socketio.AsyncServer"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)


def socketio_directory() -> Path:
    return Path(socketio.__file__).parent
