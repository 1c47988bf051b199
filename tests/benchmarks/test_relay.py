"""`benchmarks/relay.py` as a user runs it, briefly; and what it says and leaves behind when something goes wrong."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peers, relay
from benchmarks.measure import BenchmarkError
from benchmarks.peers import Peer
from benchmarks.relay import BALANCERS, DIRECT, NGINX, NODE, Round
from benchmarks.results import EchoResult, IdleResult
from benchmarks.stacks import HANDOFF, TUNNEL
from cluster.config_file import parse
from tests.benchmarks.scripts import command, environment, short_run, started_in
from tests.support.waiting import eventually

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


@pytest.mark.usefixtures("_nginx")
def test_a_short_run_measures_all_three_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every figure is there, for each, with nothing lost; what handed over has next to no part in a round trip."""
    said, _, found = short_run(tmp_path, "relay.py", *SHORT)
    for expected in ("CPU µs per round trip", "KiB per idle connection", "latency, µs", "commit", "32 B", "4096 B"):
        assert expected in said
    assert set(found) == {"facts", "settings", "rounds"}
    (each,) = found["rounds"]
    assert set(each["echo"]) == {"32", "4096"}
    assert all(set(echoes) == set(BALANCERS) for echoes in each["echo"].values())
    assert set(each["latency"]) == {DIRECT, NODE, *BALANCERS}
    assert set(each["rest_us_per_s"]) == set(BALANCERS)
    assert all(echo["round_trips"] for echoes in each["echo"].values() for echo in echoes.values())
    assert all(idle["pss_kib_before"] > 0 for idle in each["idle"].values())
    for echoes in each["echo"].values():
        assert echoes[HANDOFF]["cpu_us"] < echoes[TUNNEL]["cpu_us"] / 2


@pytest.mark.usefixtures("_nginx")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_ends_what_it_started(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Ctrl-C in the middle of a long run: no process, no file, no traceback."""
    with subprocess.Popen(
        command("relay.py", "--seconds", "600"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            asyncio.run(eventually(lambda: [*tmp_path.glob("*/handoff/config.yaml")], what="all peers have started"))
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
    ours = replace(ECHO, **changes)  # type: ignore[arg-type]
    lone = {name: [ECHO, replace(ECHO, p50_us=70.0), replace(ECHO, p50_us=90.0)] for name in (NODE, *BALANCERS)}
    return Round(
        rest_us_per_s={NGINX: 0.0, TUNNEL: 50.0, HANDOFF: 50.0},
        idle={NGINX: IDLE, TUNNEL: replace(IDLE, pss_kib_per_connection=8.0), HANDOFF: IDLE},
        latency={DIRECT: [ECHO], **lone},
        echo={32: {NGINX: ECHO, TUNNEL: ours, HANDOFF: replace(ECHO, cpu_us=1.25)}},
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lost": 3}, "tunnel, 32 B: 3 messages lost, 0 came back changed, 100 round trips"),
        ({"mismatched": 2}, "tunnel, 32 B: 0 messages lost, 2 came back changed, 100 round trips"),
        ({"round_trips": 0}, "tunnel, 32 B: 0 messages lost, 0 came back changed, 0 round trips"),
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


def line_of(rounds: list[Round], name: str) -> list[list[str]]:
    options = argparse.Namespace(
        connections=100, sizes=(32,), rounds=len(rounds), seconds=5.0, idle=20, rate=0.0, wsload=None, wsecho=None
    )
    lines = relay.report({"commit": "abc"}, options, rounds)
    return [line[len(name) :].split() for line in lines if line.startswith(f"{name}  ")]


def test_the_report_gives_medians_extremes_and_ratios_within_rounds() -> None:
    """A round in which all are slow does not move the ratio."""
    slow = {32: {name: replace(ECHO, cpu_us=cpu_us) for name, cpu_us in zip(BALANCERS, (40.0, 48.0, 5.0), strict=True)}}
    rounds = [measured(cpu_us=12.0), measured(cpu_us=11.0), replace(measured(), echo=slow)]
    cpu, added, per_second = line_of(rounds, "  32 B")
    assert cpu[:6] == ["10.00", "(10.00–40.00)", "12.00", "(11.00–48.00)", "1.200", "(1.100–1.200)"]
    assert cpu[6:] == ["1.25", "(1.25–5.00)", "0.125", "(0.125–0.125)"]
    # At 50 round trips a second, 50 µs a second at rest are one of each.
    assert added[:6] == ["10.00", "(10.00–40.00)", "11.00", "(10.00–47.00)", "1.100", "(1.000–1.175)"]
    assert per_second[0] == "50"
    (pss,) = line_of(rounds, "  PSS")
    assert pss[:6] == ["16.00", "(16.00–16.00)", "8.00", "(8.00–8.00)", "0.500", "(0.500–0.500)"]


def test_latency_is_the_median_of_the_slices_and_what_is_added_to_none() -> None:
    """What a balancer adds is told against the server that it stands in front of."""
    assert line_of([measured()], "  p50") == [["50", "70", "70", "70", "70"]]
    assert line_of([measured()], "  p50, added") == [["20", "20", "0"]]


def test_a_peer_that_used_nothing_has_no_ratio() -> None:
    """Rather none than one of nothing."""
    idle = {name: replace(IDLE, pss_kib_per_connection=0.0) for name in BALANCERS}
    (pss,) = line_of([replace(measured(), idle=idle)], "  PSS")
    assert pss == ["0.00", "0.00", "-", "0.00", "-"]


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
