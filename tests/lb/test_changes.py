"""What a changed configuration means for a running stack, key by key."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config, Nodes
from lb.changes import _WORKERS_READ, Plan, fits, plan
from tests.support.stack import ROOT


def _plan(**sections: Any) -> Plan:
    return plan(Config(), Config.model_validate(sections))


def test_nothing_changed_is_nothing_to_do() -> None:
    """Also when the stack was asked to reload."""
    assert _plan().is_empty
    assert _plan().in_words() == ""


@pytest.mark.parametrize(
    ("key", "value"), [("cluster", "other"), ("redis", "redis://127.0.0.1"), ("secret", "a long enough secret")]
)
def test_what_all_processes_must_agree_on_is_refused(key: str, value: str) -> None:
    """And then nothing else is done either."""
    assert _plan(**{key: value}, lb={"workers": 3}) == Plan(refused=(key,))


@pytest.mark.parametrize(
    "lb",
    [{"balance": "ip_hash"}, {"workers": 2}, {"cookie": {"secure": True}}, {"health": {"fall": 5}}, {"drain_s": 1.0}],
)
def test_settings_of_the_balancer_replace_its_workers_only(lb: dict[str, Any]) -> None:
    """Nodes and their clients notice nothing."""
    assert _plan(lb=lb) == Plan(workers=True)


def test_where_plain_http_is_led_away_moves_with_new_workers() -> None:
    """Or opens, or closes."""
    assert _plan(lb={"tls": {"redirect": "127.0.0.1:80"}}) == Plan(workers=True, redirect=True)
    assert _plan(lb={"tls": {"certificate": "a", "key": "b"}}) == Plan(workers=True)


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_an_address_moves_with_new_workers(key: str) -> None:
    """Each on its own."""
    assert _plan(lb={key: "127.0.0.1:9000"}) == Plan(workers=True, listen=key == "listen", admin=key == "admin")


@pytest.mark.parametrize(
    ("sections", "fit"),
    [
        ({}, True),
        ({"lb": {"workers": 3}, "log": {"level": "debug"}, "restart": {"window_s": 5.0}}, True),
        ({"nodes": {"local": 5, "first_port": 3001, "static": ["http://10.0.0.5:3000"], "discover": False}}, True),
        ({"nodes": {"app": "other:sio"}}, False),
        ({"nodes": {"drain_s": 1.0}}, False),
        ({"secret": "another"}, False),
        ({"redis": "redis://127.0.0.1"}, False),
        ({"cluster": "other"}, False),
    ],
)
def test_a_node_fits_if_all_that_it_read_is_the_same(sections: dict[str, Any], fit: bool) -> None:
    """Whatever concerns only others is no reason to replace it."""
    assert fits(Config(), Config.model_validate(sections)) is fit


def test_more_nodes_are_started_and_workers_learn_of_them() -> None:
    """Those that run are left alone."""
    assert _plan(nodes={"local": 5}) == Plan(workers=True, add=(3003, 3004))


def test_fewer_nodes_are_stopped() -> None:
    """From the highest port down."""
    assert _plan(nodes={"local": 1}) == Plan(workers=True, remove=(3001, 3002))


def test_other_ports_start_and_stop_nodes() -> None:
    """What is in both ranges stays."""
    assert _plan(nodes={"first_port": 3002}) == Plan(workers=True, add=(3003, 3004), remove=(3000, 3001))


def test_another_application_rolls_the_nodes_after_a_look_at_it() -> None:
    """Workers do not care."""
    assert _plan(nodes={"app": "shop:sio"}) == Plan(roll=(3000, 3001, 3002), app=True)


@pytest.mark.parametrize(
    "nodes",
    [{"ping_interval_s": 20.0}, {"outlive_supervisor_s": 5.0}, {"advertise": "10.0.0.1"}],
)
def test_settings_of_nodes_roll_them_and_leave_the_workers(nodes: dict[str, Any]) -> None:
    """A tunnel through a worker survives that."""
    assert _plan(nodes=nodes) == Plan(roll=(3000, 3001, 3002))


@pytest.mark.parametrize("nodes", [{"drain_s": 1.0}, {"close_per_s": 5.0}])
def test_how_nodes_drain_concerns_both(nodes: dict[str, Any]) -> None:
    """Workers write it into the orders that they give."""
    assert _plan(nodes=nodes) == Plan(workers=True, roll=(3000, 3001, 3002))


@pytest.mark.parametrize("nodes", [{"weights": {"n3000": 2.0}}, {"max_connections": 9}, {"handshakes_per_s": 9.0}])
def test_how_clients_are_placed_concerns_workers_alone(nodes: dict[str, Any]) -> None:
    """No node is touched."""
    assert _plan(nodes=nodes) == Plan(workers=True)


def test_new_nodes_are_not_rolled() -> None:
    """They start with the new settings anyway."""
    assert _plan(nodes={"local": 4, "drain_s": 1.0}) == Plan(workers=True, add=(3003,), roll=(3000, 3001, 3002))


@pytest.mark.parametrize("nodes", [{"static": ["http://10.0.0.5:3000"]}, {"discover": False}])
def test_what_only_the_balancer_reads_rolls_no_node(nodes: dict[str, Any]) -> None:
    """Where else nodes are is no node's business."""
    assert _plan(nodes=nodes) == Plan(workers=True)


def test_what_both_read_concerns_both() -> None:
    """A lease is kept by nodes and believed by workers."""
    assert _plan(nodes={"lease_s": 9.0}) == Plan(workers=True, roll=(3000, 3001, 3002))


def test_restart_and_log_settings_replace_nobody() -> None:
    """They are the supervisor's own, or are told to processes that run."""
    assert _plan(restart={"window_s": 30.0}, log={"level": "debug"}) == Plan(restart=True, log=True)


def test_it_is_told_in_words_in_the_order_in_which_it_is_done() -> None:
    """What the log shows."""
    changed = _plan(lb={"listen": "127.0.0.1:9000"}, nodes={"local": 2, "app": "shop:sio"}, log={"level": "debug"})
    assert changed.in_words() == (
        "lb.listen moves, workers are replaced, nodes stop on 3002, nodes roll on 3000 3001, log settings apply"
    )


def _keys_read(file: Path) -> set[str]:
    """Return the keys of `nodes` that a module reads, as `….nodes.key` or `nodes.key`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in Nodes.model_fields:
            owner = node.value
            if (isinstance(owner, ast.Attribute) and owner.attr == "nodes") or (
                isinstance(owner, ast.Name) and owner.id == "nodes"
            ):
                found.add(node.attr)
    return found


def test_every_key_of_nodes_that_a_worker_reads_is_known() -> None:
    """Otherwise a reload would leave workers with the old value."""
    supervisors = {"banner", "changes", "check", "crew", "preflight", "reload", "roster", "stack", "stack_redis"}
    modules = [file for file in (ROOT / "lb").glob("*.py") if file.stem not in supervisors]
    read = set().union(*map(_keys_read, modules))
    assert read
    assert read <= set(_WORKERS_READ)
