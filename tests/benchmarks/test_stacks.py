"""The stacks that the benchmarks measure are what they say they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import stacks
from benchmarks.echo_app import MOST_MESSAGE_BYTES
from benchmarks.generator import Generator
from benchmarks.measure import BenchmarkError, balancer_of, family
from benchmarks.stacks import HANDOFF, TUNNEL, stack, stack_config
from cluster.config_file import parse


@pytest.mark.parametrize(("path", "handoff"), [(HANDOFF, "auto"), (TUNNEL, "never")])
def test_our_configuration_is_one_that_we_accept(path: str, handoff: str) -> None:
    """One worker, one local node, no Redis; nothing is reachable from outside."""
    config = parse(stack_config(8080, 8081, 3000, path), "config.yaml", {})
    assert (config.lb.workers, config.nodes.local, config.redis) == (1, 1, "none")
    assert config.lb.handoff == handoff
    assert config.lb.listen.is_loopback
    assert config.lb.admin.is_loopback


@pytest.mark.parametrize("path", [HANDOFF, TUNNEL])
def test_echoes_come_back_by_the_path_that_was_asked_for(tmp_path: Path, path: str) -> None:
    """Large ones, too; the node is told from the balancer, and nobody is counted at the end."""
    with stack(tmp_path, path) as started:
        assert started.node()["path"] == path
        everything, balancer = family(started.peer.pid), balancer_of(started.peer.pid, started.peer.node_pid)
        assert set(everything) - set(balancer) == {started.peer.node_pid}
        assert started.worker().pid in balancer
        echo = Generator(None, 0.1).echo(started.peer, connections=3, size=100_000, seconds=0.2)
        assert (echo.lost, echo.mismatched) == (0, 0)
        assert echo.round_trips > 5
        assert started.still_counted() == 0
    assert MOST_MESSAGE_BYTES > 100_000
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_connections_that_are_counted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, once the time to settle is over."""
    with stack(tmp_path, TUNNEL) as started:
        monkeypatch.setattr(stacks.Stack, "node", lambda _: {"connections": 3})
        assert started.still_counted(within_s=0.05) == 3


def test_another_path_than_the_one_that_was_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than measured under the wrong name."""
    monkeypatch.setattr(stacks, "stack_config", lambda one, two, three, _: stack_config(one, two, three, TUNNEL))
    with pytest.raises(BenchmarkError, match="by tunnel, not by handoff"), stack(tmp_path, HANDOFF):
        pass


def test_a_worker_that_never_comes_back_is_not_waited_for(tmp_path: Path) -> None:
    """There is a deadline; the worker that serves still is not the next one."""
    with stack(tmp_path, TUNNEL) as started:
        pid = started.worker().pid
        assert pid is not None
        with pytest.raises(BenchmarkError, match="no worker serves again"):
            started.next_worker(pid, within_s=0.2)
