"""What a Redis URL says, and that the bus and redis-py read it alike."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cluster.redis_address import RedisAddress, Server, Topology, parse

SINGLE, SENTINEL, CLUSTER = Topology.SINGLE, Topology.SENTINEL, Topology.CLUSTER


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress(SINGLE, (Server("h", 6379),))),
        ("redis://h:1/3", RedisAddress(SINGLE, (Server("h", 1),), database=3)),
        ("redis://h:1/3?db=4&client_name=me", RedisAddress(SINGLE, (Server("h", 1),), "", "", "me", 4)),
        ("redis://[::1]:1", RedisAddress(SINGLE, (Server("::1", 1),))),
        ("redis://u:p%40%2F:w@h", RedisAddress(SINGLE, (Server("h", 6379),), "u", "p@/:w")),
        ("redis://:pw@h", RedisAddress(SINGLE, (Server("h", 6379),), "", "pw")),
        ("unix:///run/a@b.sock?db=2", RedisAddress(SINGLE, (Server(path="/run/a@b.sock"),), database=2)),
        ("unix://u:pw@/run/v.sock", RedisAddress(SINGLE, (Server(path="/run/v.sock"),), "u", "pw")),
        (
            "redis+sentinel://u:pw@a,b:1,[::1]:2/5/main",
            RedisAddress(SENTINEL, (Server("a", 26379), Server("b", 1), Server("::1", 2)), "u", "pw", "", 5, "main"),
        ),
        ("redis+sentinel://a", RedisAddress(SENTINEL, (Server("a", 26379),), service="mymaster")),
        ("redis+cluster://:pw@a,b:1/0", RedisAddress(CLUSTER, (Server("a", 6379), Server("b", 1)), "", "pw")),
    ],
)
def test_every_part_of_a_url_is_read(url: str, address: RedisAddress) -> None:
    """Escapes, defaults, several servers."""
    assert parse(url) == address


def test_certificates_are_checked_unless_the_url_says_otherwise() -> None:
    """As redis-py does."""
    strict = parse("rediss://h").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    nameless = parse("rediss://h?ssl_check_hostname=false").tls
    assert nameless is not None
    assert (nameless.verify_mode, nameless.check_hostname) == (ssl.CERT_REQUIRED, False)
    trusting = parse("rediss://h?ssl_cert_reqs=none").tls
    assert trusting is not None
    assert (trusting.verify_mode, trusting.check_hostname) == (ssl.CERT_NONE, False)
    assert parse("redis://h").tls is None


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_certificate_that_is_not_there_is_an_oserror(option: str, tmp_path: Path) -> None:
    """For whoever starts: one line, with the file."""
    with pytest.raises(OSError, match=r"No such file"):
        parse(f"rediss://h?{option}={tmp_path}/none.pem")


def test_a_server_is_shown_as_it_is_written() -> None:
    """In log lines."""
    assert [str(each) for each in (Server("h", 1), Server("::1", 1), Server(path="/x"))] == ["h:1", "[::1]:1", "/x"]


def test_a_password_is_not_shown() -> None:
    """Nor in a traceback."""
    assert "hunter2" not in repr(parse("redis://:hunter2@h"))
