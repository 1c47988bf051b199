"""`benchmarks/stack.py` as a user runs it, briefly, and how it reports."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import stack
from benchmarks.measure import BenchmarkError, family
from benchmarks.peers import nginx_config
from benchmarks.sio import peers
from benchmarks.sio.peers import APP, BALANCER, FLOTILLA, NODE_JS, NODES, REDIS, SERVERS, our_stack, stack_config
from benchmarks.sio.results import Delivered
from benchmarks.stack import Round, check_spread, faults_in, remarks_on, report
from cluster.config import EMBEDDED
from cluster.config_file import parse
from tests.benchmarks.scripts import short_run

THEIRS = Delivered(
    deliveries=1000,
    lost=0,
    duplicated=0,
    reordered=0,
    changed=0,
    dropped=0,
    seconds=2.0,
    late=False,
    cpu_us={BALANCER: 12.0, SERVERS: 17.5, REDIS: 0.5},
    p50_us=5000.0,
    p99_us=9000.0,
    servers={"n0": 30, "n1": 30, "n2": 40},
    generator_cpu_percent=20.0,
)
OURS = replace(THEIRS, cpu_us={BALANCER: 0.5, SERVERS: 6.0, REDIS: 0.25})
ROUND: Round = {FLOTILLA: OURS, NODE_JS: THEIRS}
OPTIONS = argparse.Namespace(clients=100, rate=20.0, count=1, size=64, rounds=1, seconds=5.0)


@pytest.mark.usefixtures("_nginx", "_node_js")
def test_a_short_run_measures_both_stacks_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every broadcast reaches every client, on whatever node; balancer, nodes and Redis are told apart."""
    arguments = ("--clients", "60", "--rate", "10", "--seconds", "0.6", "--rounds", "1", "--size", "16")
    said, _, found = short_run(tmp_path, "stack.py", *arguments)
    assert "of 1 budgets kept" in said
    (each,) = found["rounds"]
    assert set(each) == {FLOTILLA, NODE_JS}
    for side in each.values():
        assert (side["deliveries"], side["lost"]) == (6 * 60, 0)
        assert sum(side["servers"].values()) == 60
        assert len(side["servers"]) == NODES
        assert all(side["cpu_us"][part] > 0 for part in (BALANCER, SERVERS, REDIS))


def test_our_configuration_is_the_default_but_for_addresses_and_application() -> None:
    """Handoff, cookies, the embedded Redis: what users get."""
    config = parse(stack_config(8080, 8081, 13000, APP), "config.yaml", {})
    assert (config.redis, config.nodes.local, config.nodes.app) == (EMBEDDED, NODES, APP)
    assert (config.lb.workers, config.lb.handoff, config.nodes.first_port) == (1, "auto", 13000)
    assert config.lb.listen.is_loopback
    assert config.lb.admin.is_loopback


def test_every_process_of_our_stack_is_counted_once(tmp_path: Path) -> None:
    """Supervisor and worker, three nodes, and the Redis."""
    with our_stack(tmp_path, APP) as server:
        counted = [pid for pids in server.processes.values() for pid in pids]
        assert len(server.processes[SERVERS]) == NODES
        assert len(server.processes[BALANCER]) >= 2
        assert len(server.processes[REDIS]) >= 1
        (root,) = [pid for pid in server.processes[BALANCER] if set(counted) <= set(family(pid))]
        assert sorted(counted) == sorted(family(root))
    assert list(tmp_path.iterdir()) == []


def test_nginx_chooses_by_the_clients_address_among_several_servers() -> None:
    """The stickiness that Socket.IO's documentation configures; with one server there is nothing to choose."""
    config = nginx_config(1, 3000, 100, 0, [3001, 3002])
    assert "ip_hash; server 127.0.0.1:3000; server 127.0.0.1:3001; server 127.0.0.1:3002;" in config
    assert "ip_hash" not in nginx_config(1, 3000, 100, 0)


@pytest.mark.parametrize("servers", [{"n0": 100}, {"n0": 50, "n1": 50}, {"n0": 5, "n1": 45, "n2": 50}])
def test_clients_that_are_not_spread_over_all_nodes_are_no_measurement(servers: dict[str, int]) -> None:
    """A stack with one busy node costs something else."""
    with pytest.raises(BenchmarkError, match="not spread over 3 nodes"):
        check_spread(FLOTILLA, replace(OURS, servers=servers))
    check_spread(FLOTILLA, OURS)


def test_the_report_sums_all_parts_and_says_whether_the_budget_is_kept() -> None:
    """6.75 of 30 µs are less than a quarter."""
    lines = list(report({"commit": "abc"}, OPTIONS, [ROUND]))
    (whole,) = [line for line in lines if line.startswith("CPU µs per delivery")]
    assert whole.split()[4:] == ["6.75", "30.00", "0.23", "≤", "0.25", "kept"]
    (spread,) = [line for line in lines if line.startswith("  clients")]
    assert spread.endswith("Flotilla 30 + 30 + 40; Node.js 30 + 30 + 40")
    assert lines[-1] == "1 of 1 budgets kept"


def test_losses_are_told_and_are_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the figures, which are printed all the same."""
    found = {FLOTILLA: replace(OURS, lost=3), NODE_JS: THEIRS}
    monkeypatch.setattr(stack, "_one_side", lambda side, *_: found[side])
    monkeypatch.setattr(stack, "node_program", lambda _: "node")
    monkeypatch.setattr(stack, "node_facts", lambda _: {})
    monkeypatch.setattr(stack, "nginx_program", lambda _: "true")
    assert stack.main(["--rounds", "1"]) == 1
    output = capsys.readouterr()
    assert "Flotilla, round 1: 1000 messages delivered, 3 lost" in output.err
    assert "CPU µs per delivery" in output.out


def test_what_went_wrong_is_told_with_the_side() -> None:
    """And a stack that cannot keep up is not at fault."""
    assert list(faults_in([{FLOTILLA: replace(OURS, reordered=2)}])) == ["Flotilla, round 1: 2 messages out of order"]
    late = [{FLOTILLA: replace(OURS, late=True)}]
    assert list(faults_in(late)) == []
    assert list(remarks_on(late)) == ["Flotilla, round 1: could not keep up, the latency is that of its queue"]


def test_a_redis_that_does_not_answer_is_not_there(tmp_path: Path) -> None:
    """No socket, or nobody behind it."""
    assert peers._pings(tmp_path) is False
