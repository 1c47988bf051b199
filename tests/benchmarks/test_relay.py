"""`benchmarks/relay.py` as a user runs it, briefly; and what it says and leaves behind when something goes wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peers, relay
from benchmarks.load import EchoResult, IdleResult
from benchmarks.measure import ROOT, BenchmarkError
from benchmarks.peers import Peer
from benchmarks.relay import DIRECT, FLOTILLA, NGINX, Round
from cluster.config_file import parse
from tests.support.tools import missing
from tests.support.waiting import eventually

SCRIPT = ROOT / "benchmarks" / "relay.py"
SHORT = ("--rounds", "1", "--seconds", "0.3", "--connections", "5", "--idle", "20", "--sizes", "32,4096")

ECHO = EchoResult(
    round_trips=100,
    seconds=2.0,
    lost=0,
    mismatched=0,
    cpu_us=10.0,
    p50_us=50.0,
    p99_us=80.0,
    generator_cpu_percent=40.0,
)
IDLE = IdleResult(
    connections=20,
    lost=0,
    pss_kib_before=5000,
    rss_kib_before=9000,
    pss_kib_per_connection=16.0,
    rss_kib_per_connection=17.0,
)


@pytest.fixture
def _nginx() -> None:
    if shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin") is None:
        missing("nginx", "install the package nginx-light")


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *arguments]


def environment(temporary: Path) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLOTILLA_", "PYTHONPATH"))}
    return kept | {"TMPDIR": str(temporary)}


def started_in(temporary: Path) -> list[int]:
    """Return the processes that work in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve().is_relative_to(temporary.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.usefixtures("_nginx")
def test_a_short_run_measures_both_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """From a directory outside the repository; every figure is there, for both, with nothing lost."""
    scratch, figures = tmp_path / "scratch", tmp_path / "figures.json"
    scratch.mkdir()
    done = subprocess.run(
        command(*SHORT, "--json", str(figures)),
        cwd=tmp_path,
        env=environment(scratch),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in ("CPU µs per round trip", "KiB per idle connection", "latency, µs", "commit", "32 B", "4096 B"):
        assert expected in done.stdout
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert set(found) == {"facts", "settings", "rounds"}
    (measured,) = found["rounds"]
    assert set(measured["echo"]) == {"32", "4096"}
    assert all(set(peers) == {NGINX, FLOTILLA} for peers in measured["echo"].values())
    assert set(measured["latency"]) == {DIRECT, NGINX, FLOTILLA}
    assert all(echo["round_trips"] for echoes in measured["echo"].values() for echo in echoes.values())
    assert all(idle["pss_kib_before"] > 0 for idle in measured["idle"].values())
    assert list(scratch.iterdir()) == []
    assert started_in(tmp_path) == []


@pytest.mark.usefixtures("_nginx")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_ends_what_it_started(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C in the middle of a long run: no process, no file, no traceback."""
    with subprocess.Popen(
        command("--seconds", "600"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            asyncio.run(eventually(lambda: [*tmp_path.glob("*/flotilla/config.yaml")], what="all peers have started"))
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    assert started_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nginx", "no-such-nginx"], "there is no no-such-nginx; install it (apt install nginx-light)"),
        (["--sizes", "8"], "'8' is not a whole number of at least 16"),
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--seconds", "soon"], "'soon' is not a number of seconds"),
        (["--rate", "-1"], "'-1' is not a number of messages a second"),
        (["--json", "/nowhere/figures.json"], "/nowhere/figures.json"),
        (["--idle", "100000000"], "open files are needed"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Before anything is started, with status 2."""
    with pytest.raises(SystemExit) as ended:
        sys.exit(relay.main(["--nginx", sys.executable, *arguments]))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_peer_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    """An nginx that is none: its status and its own last words."""
    backend = Peer("backend", 1, os.getpid())
    with (
        pytest.raises(BenchmarkError, match=r"(?s)nginx ended with status 2:\n.*unknown option|Unknown option"),
        peers.nginx(tmp_path, sys.executable, backend, 5),
    ):
        pass


def test_a_peer_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A balancer that starts and stays silent, and that ignores SIGTERM."""
    monkeypatch.setattr(peers, "START_S", 0.5)
    monkeypatch.setattr(peers, "STOP_S", 0.1)
    stubborn = tmp_path / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nsleep 60\n", encoding="utf-8")
    stubborn.chmod(0o700)
    with (
        pytest.raises(BenchmarkError, match="nginx does not answer with 200 after"),
        peers.nginx(tmp_path, str(stubborn), Peer("backend", 1, os.getpid()), 5),
    ):
        pass
    # The kernel takes a moment to bury what SIGKILL has hit.
    asyncio.run(eventually(lambda: not started_in(tmp_path)))


def test_our_configuration_is_one_that_we_accept() -> None:
    """One worker in front of one static node, no Redis; nothing is reachable from outside."""
    config = parse(peers.flotilla_config(8080, 8081, 9000), "config.yaml", {})
    assert config.nodes.static == ("http://127.0.0.1:9000",)
    assert config.lb.workers == 1
    assert config.lb.listen.is_loopback
    assert config.lb.admin.is_loopback


def measured(**changes: float) -> Round:
    return Round(
        idle={NGINX: IDLE, FLOTILLA: replace(IDLE, pss_kib_per_connection=8.0)},
        latency={DIRECT: ECHO, NGINX: replace(ECHO, p50_us=70.0), FLOTILLA: replace(ECHO, p50_us=80.0)},
        echo={32: {NGINX: ECHO, FLOTILLA: replace(ECHO, **changes)}},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lost": 3}, "flotilla, 32 B: 3 messages lost, 0 came back changed, 100 round trips"),
        ({"mismatched": 2}, "flotilla, 32 B: 0 messages lost, 2 came back changed, 100 round trips"),
        ({"round_trips": 0}, "flotilla, 32 B: 0 messages lost, 0 came back changed, 0 round trips"),
    ],
)
def test_a_loss_is_told_with_where_it_happened(changes: dict[str, float], said: str) -> None:
    """A fast balancer that loses messages is no balancer."""
    assert list(measured(**changes).losses) == [said]


def test_closed_idle_connections_are_a_loss() -> None:
    """They must stay open."""
    each = Round(idle={NGINX: replace(IDLE, lost=1)})
    assert list(each.losses) == ["nginx: 1 of 20 idle connections were closed"]


def test_a_run_without_losses_tells_none() -> None:
    """Nothing to say."""
    assert list(measured().losses) == []


def test_losses_are_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """1, with the figures still printed."""
    monkeypatch.setattr(relay, "_round", lambda *_, **__: measured(lost=3))
    assert relay.main(["--nginx", sys.executable, "--sizes", "32", "--rounds", "1"]) == 1
    output = capsys.readouterr()
    assert "3 messages lost" in output.err
    assert "CPU µs per round trip" in output.out


def test_the_report_gives_medians_extremes_and_ratios_within_rounds() -> None:
    """A round in which both are slow does not move the ratio."""
    slow = {32: {NGINX: replace(ECHO, cpu_us=40.0), FLOTILLA: replace(ECHO, cpu_us=48.0)}}
    rounds = [measured(cpu_us=12.0), measured(cpu_us=11.0), replace(measured(), echo=slow)]
    options = argparse.Namespace(
        connections=100, sizes=(32,), rounds=3, seconds=5.0, idle=20, rate=0.0, wsload=None, wsecho=None
    )
    lines = list(relay.report({"commit": "abc"}, options, rounds))
    (cpu,) = [line for line in lines if line.startswith("  32 B")]
    assert cpu.split() == [
        "32",
        "B",
        "10.0",
        "(10.0–40.0)",
        "12.0",
        "(11.0–48.0)",
        "1.20",
        "(1.10–1.20)",
        "50",
        "|",
        "50",
    ]
    (pss,) = [line for line in lines if line.startswith("  PSS  ")]
    assert pss.split()[1:] == ["16.0", "(16.0–16.0)", "8.0", "(8.0–8.0)", "0.50", "(0.50–0.50)"]
    (p50,) = [line for line in lines if line.startswith("  p50")]
    assert p50.split()[1:] == ["70", "(70–70)", "80", "(80–80)", "50", "(50–50)"]


def test_a_peer_that_used_less_than_a_clock_tick_has_no_ratio() -> None:
    """Rather none than one of nothing."""
    idle = {NGINX: replace(IDLE, pss_kib_per_connection=0.0), FLOTILLA: IDLE}
    options = argparse.Namespace(
        connections=1, sizes=(32,), rounds=1, seconds=0.1, idle=20, rate=0.0, wsload=None, wsecho=None
    )
    lines = list(relay.report({}, options, [replace(measured(), idle=idle)]))
    (pss,) = [line for line in lines if line.startswith("  PSS  ")]
    assert pss.split()[-1] == "-"


def test_nginx_gets_larger_buffers_where_they_are_asked_for() -> None:
    """And its own default otherwise."""
    assert "proxy_buffer_size 64k; proxy_buffers 8 64k;" in peers.nginx_config(1, 2, 3, 64)
    assert "proxy_buffer_size" not in peers.nginx_config(1, 2, 3, 0)


def test_a_signal_while_a_process_is_being_started_waits() -> None:
    """It arrives right after, so that what was started is known by then and is ended."""
    steps = []

    def start() -> None:
        with peers.undisturbed():
            signal.raise_signal(signal.SIGINT)
            steps.append("started")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert steps == ["started"]


def test_an_open_loop_says_its_rate() -> None:
    """Whoever reads the figure must see at which load it was taken."""
    options = argparse.Namespace(
        connections=100, sizes=(), rounds=3, seconds=5.0, idle=20, rate=5000.0, wsload="w", wsecho=None
    )
    lines = list(relay.report({}, options, [measured()]))
    assert "  load        100 connections, open loop, 5000 messages/s; 3 rounds of 5 s" in lines
