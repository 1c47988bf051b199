"""cluster/relations.py: keys that cannot stand together."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Config
from cluster.relations import relations


def told(**sections: Any) -> dict[str, str]:
    """Return the problems of a configuration, by key."""
    config = Config.model_validate(sections)
    return {".".join(map(str, problem.path)): problem.text for problem in relations(config)}


def test_the_defaults_stand_together() -> None:
    """An empty file runs."""
    assert told() == {}


@pytest.mark.parametrize(("heartbeat_s", "lease_s", "good"), [(1.0, 3.01, True), (1.0, 3.0, False), (2.0, 5.0, False)])
def test_a_lease_outlasts_three_heartbeats(heartbeat_s: float, lease_s: float, good: bool) -> None:
    """Two may be lost."""
    found = told(nodes={"heartbeat_s": heartbeat_s, "lease_s": lease_s})
    assert (found == {}) is good
    if not good:
        assert found["nodes.lease_s"].endswith(f"allowed: more than {3 * heartbeat_s:g}")


@pytest.mark.parametrize("key", ["tunnel_idle_s", "answer_timeout_s"])
@pytest.mark.parametrize(("limit_s", "good"), [(0.0, True), (45.0, False), (44.0, False), (45.1, True)])
def test_limits_on_silence_outlast_the_heartbeat_of_a_quiet_client(key: str, limit_s: float, good: bool) -> None:
    """pingInterval + pingTimeout is 45 s; zero is no limit."""
    found = told(lb={key: limit_s})
    assert set(found) == (set() if good else {f"lb.{key}"})
    if not good:
        assert found[f"lb.{key}"].endswith(
            "ping_interval_s + ping_timeout_s is 45 s; allowed: 0 (never) or more than 45"
        )


@pytest.mark.parametrize(("most", "good"), [(0, True), (999_999, False), (1_000_000, True), (2**40, True)])
def test_a_message_by_long_polling_is_no_body_that_is_too_large(most: int, good: bool) -> None:
    """What a node takes, its balancer lets pass; zero is no limit."""
    found = told(lb={"max_body_bytes": most}, nodes={"max_message_bytes": 1_000_000})
    assert set(found) == (set() if good else {"lb.max_body_bytes"})
    if not good:
        assert found["lb.max_body_bytes"].endswith("allowed: 0 (any) or at least 1000000")


def test_a_cross_site_cookie_must_be_secure() -> None:
    """Browsers drop it otherwise, and stickiness with it."""
    assert set(told(lb={"cookie": {"same_site": "none"}})) == {"lb.cookie.same_site"}
    assert told(lb={"cookie": {"same_site": "none", "secure": True}}) == {}
    assert told(lb={"cookie": {"same_site": "none"}, "tls": {"certificate": "a", "key": "a"}}) == {}


@pytest.mark.parametrize(
    ("tls", "wrong"),
    [
        ({"certificate": "a", "key": "b"}, set()),
        ({"certificate": "a"}, {"certificate"}),
        ({"key": "b"}, {"key"}),
        ({"redirect": "0.0.0.0:80"}, {"redirect"}),
        ({"certificate": "a", "redirect": "0.0.0.0:80"}, {"certificate"}),
        ({"certificate": "a", "key": "b", "redirect_port": 443}, {"redirect_port"}),
        ({"certificate": "a", "key": "b", "challenges": "/srv"}, {"challenges"}),
        ({"certificate": "a", "key": "b", "redirect": "0.0.0.0:80", "challenges": "c", "redirect_port": 443}, set()),
        ({"minimum": "1.3"}, set()),
        (
            {
                "certificate": "a",
                "key": "b",
                "more": [{"certificate": "c", "key": "c"}, {"certificate": "d", "key": "e"}],
            },
            set(),
        ),
        (
            {"certificate": "a", "key": "b", "more": [{"certificate": "c"}, {"key": "d"}]},
            {"more.0.certificate", "more.1.key"},
        ),
        ({"certificate": "a", "key": "b", "more": [{"certificate": "c", "key": "d"}, {}]}, {"more.1"}),
        ({"more": [{"certificate": "c", "key": "d"}]}, {"more"}),
    ],
)
def test_tls_needs_both_files_and_all_else_needs_tls(tls: dict[str, Any], wrong: set[str]) -> None:
    """Nobody believes to be safe who is not."""
    assert set(told(lb={"tls": tls})) == {f"lb.tls.{key}" for key in wrong}


@pytest.mark.parametrize(
    ("port", "owner"), [(443, "lb.listen's too"), (444, "lb.admin's too"), (3001, "a local node's")]
)
def test_what_leads_to_https_has_a_port_of_its_own(port: int, owner: str) -> None:
    """As the other two."""
    tls = {"certificate": "a", "key": "b", "redirect": f"127.0.0.1:{port}"}
    found = told(lb={"listen": "127.0.0.1:443", "admin": "127.0.0.1:444", "tls": tls})
    assert set(found) == {"lb.tls.redirect"}
    assert owner in found["lb.tls.redirect"]


def test_several_nodes_need_a_redis() -> None:
    """Or messages stay where they are sent; one alone is a cluster of its own."""
    assert "allowed: embedded, a URL, or nodes.local of at most 1" in told(redis="none")["redis"]
    assert told(redis="none", nodes={"local": 1}) == {}


def test_a_balancer_needs_something_to_balance() -> None:
    """No local nodes, none named, and no way to find any."""
    assert set(told(redis="none", nodes={"local": 0})) == {"nodes.static"}
    assert told(redis="none", nodes={"local": 0, "static": ["http://h:1"]}) == {}
    assert told(redis="redis://h", nodes={"local": 0}) == {}


@pytest.mark.parametrize(("first", "local", "good"), [(65533, 3, True), (65534, 3, False), (65535, 1, True)])
def test_ports_of_local_nodes_exist(first: int, local: int, good: bool) -> None:
    """The last is 65535."""
    found = told(nodes={"first_port": first, "local": local})
    assert set(found) == (set() if good else {"nodes.first_port"})
    if not good:
        assert found["nodes.first_port"].endswith(f"allowed: at most {65536 - local}")


@pytest.mark.parametrize("key", ["listen", "admin"])
@pytest.mark.parametrize(("port", "good"), [(2999, True), (3000, False), (3002, False), (3003, True)])
def test_our_own_ports_are_no_nodes(key: str, port: int, good: bool) -> None:
    """3000 to 3002 are taken."""
    found = told(lb={key: f"127.0.0.1:{port}"})
    assert set(found) == (set() if good else {f"lb.{key}"})
    if not good:
        assert found[f"lb.{key}"] == f"port {port} is a local node's; allowed: outside 3000 to 3002"


def test_the_public_and_the_admin_port_differ() -> None:
    """Unless the kernel chooses both."""
    assert set(told(lb={"listen": "127.0.0.1:80", "admin": "127.0.0.1:80"})) == {"lb.admin"}
    assert told(lb={"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}) == {}


@pytest.mark.parametrize(
    ("unread", "left"),
    [
        ((), {"nodes.lease_s", "redis"}),
        ((("nodes", "lease_s"),), {"redis"}),
        ((("nodes", "heartbeat_s"),), {"redis"}),
        ((("nodes", "static", 0),), {"nodes.lease_s"}),
        ((("redis",),), {"nodes.lease_s"}),
        ((("nodes",),), set()),
        (((),), set()),
        ((("nodes", "app"), ("log",)), {"nodes.lease_s", "redis"}),
    ],
)
def test_rules_about_what_could_not_be_read_are_left_out(
    unread: tuple[tuple[str | int, ...], ...], left: set[str]
) -> None:
    """The key itself, something in it, or the section around it."""
    config = Config.model_validate({"redis": "none", "nodes": {"lease_s": 1.0}})
    assert {".".join(map(str, problem.path)) for problem in relations(config, unread)} == left


def test_there_is_something_to_balance() -> None:
    """Nodes of our own, nodes that are named, or nodes that announce themselves: one of them at least."""
    nothing = {"local": 0, "discover": False}
    assert set(told(redis="redis://localhost", nodes=nothing)) == {"nodes.discover"}
    assert set(told(redis="none", nodes={"local": 0})) == {"nodes.static"}
    for nodes in ({"discover": True}, {"local": 1}, {"static": ["http://10.0.0.5:3000"]}):
        assert told(redis="redis://localhost", nodes=nothing | nodes) == {}
