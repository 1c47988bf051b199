"""cluster/config.py: what the program reads from a configuration."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from cluster.config import AUTO, Config, Endpoint


def test_the_cookie_is_called_after_the_cluster_unless_it_has_a_name() -> None:
    """Two clusters behind one domain must not share it."""
    assert Config(cluster="chat").cookie_name == "chat_node"
    assert Config.model_validate({"lb": {"cookie": {"name": "mine"}}}).cookie_name == "mine"


def test_local_ports_follow_each_other() -> None:
    """None with local: 0."""
    assert list(Config().local_ports) == [3000, 3001, 3002]
    assert list(Config.model_validate({"nodes": {"local": 0}}).local_ports) == []


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_an_address_knows_whether_only_this_host_reaches_it(host: str, is_loopback: bool) -> None:
    """Names other than localhost count as reachable."""
    assert Endpoint(host, 80).is_loopback is is_loopback


def test_nothing_can_be_changed_after_it_was_read() -> None:
    """One configuration for the whole life of a process."""
    with pytest.raises(ValidationError):
        Config().lb.workers = 2  # type: ignore[misc]


def test_the_secret_is_in_no_log_line() -> None:
    """What is printed of a configuration leaves it out."""
    assert "hunter2" not in repr(Config(secret="hunter2"))


def test_what_is_dumped_is_plain_and_reads_back() -> None:
    """JSON for children; addresses as text."""
    config = Config.model_validate({"secret": "s", "lb": {"listen": "[::1]:1"}, "nodes": {"static": ["http://a"]}})
    dumped = json.loads(json.dumps(config.dumped()))
    assert dumped["lb"]["listen"] == "[::1]:1"
    assert Config.model_validate(dumped) == config


def test_workers_may_be_left_to_the_machine() -> None:
    """`auto` stays `auto` on its way to the children; it is resolved where workers are started."""
    config = Config.model_validate({"lb": {"workers": "auto"}})
    assert config.lb.workers == AUTO
    assert config.dumped()["lb"]["workers"] == "auto"
    assert Config.model_validate(config.dumped()) == config
    assert Config().dumped()["lb"]["workers"] == 1


@pytest.mark.parametrize("workers", ["Auto", "2", "", "many"])
def test_another_word_for_the_number_of_workers_is_refused(workers: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValidationError, match="allowed: auto, or a whole number"):
        Config.model_validate({"lb": {"workers": workers}})


@pytest.mark.parametrize(("given", "read"), [("1.3", "1.3"), (1.3, "1.3"), (1.2, "1.2")])
def test_a_version_of_tls_may_stand_without_quotes(given: object, read: str) -> None:
    """YAML reads it as a number then."""
    assert Config.model_validate({"lb": {"tls": {"minimum": given}}}).lb.tls.minimum == read


def test_no_address_is_empty_text_and_reads_back() -> None:
    """Where an address is only wanted sometimes."""
    config = Config.model_validate({"lb": {"tls": {"redirect": ""}}})
    assert config.lb.tls.redirect is None
    assert config.dumped()["lb"]["tls"]["redirect"] == ""
    config = Config.model_validate({"lb": {"tls": {"redirect": "[::]:80"}}})
    assert Config.model_validate(config.dumped()) == config
    with pytest.raises(ValidationError, match="must be host:port"):
        Config.model_validate({"lb": {"tls": {"redirect": "80"}}})
