"""The start-up picture: what listens where, which page to open, and what is wrong."""

from __future__ import annotations

from cluster.config import Config, Endpoint
from lb.banner import Facts, banner, url


def test_it_shows_a_stranger_everything_needed() -> None:
    """Aligned, one thing a line."""
    facts = Facts(
        version="0.1.0",
        listen=Endpoint("0.0.0.0", 8080),
        admin=Endpoint("127.0.0.1", 8081),
        nodes=["n3000", "n3001"],
        redis="embedded (valkey 9.1.2, private socket)",
    )
    assert banner(Config(), facts).splitlines() == [
        "Flotilla 0.1.0   cluster flotilla",
        "  open    http://localhost:8080/   (listens on 0.0.0.0:8080)",
        "  admin   http://127.0.0.1:8081/   (python -m lb status)",
        "  nodes   n3000 n3001   app node.chat:sio",
        "  redis   embedded (valkey 9.1.2, private socket)",
        "  stop    Ctrl-C",
    ]


def test_it_shows_https_and_what_leads_there() -> None:
    """Which page to open is the secure one."""
    config = Config.model_validate({"lb": {"tls": {"certificate": "a", "key": "b"}}})
    listen, plain = Endpoint("0.0.0.0", 443), Endpoint("0.0.0.0", 80)
    facts = Facts("0.1.0", listen, Endpoint("127.0.0.1", 8081), nodes=[], redis="none", redirect=plain)
    assert banner(config, facts).splitlines()[1:4] == [
        "  open       https://localhost:443/   (listens on 0.0.0.0:443)",
        "  redirect   http://localhost:80/   (plain http, which leads there)",
        "  admin      http://127.0.0.1:8081/   (python -m lb status)",
    ]
    assert facts.as_fields()["redirect"] == "0.0.0.0:80"


def test_it_shows_what_was_taken_over() -> None:
    """Whose clients noticed nothing."""
    listen, admin = Endpoint("127.0.0.1", 8080), Endpoint("127.0.0.1", 8081)
    facts = Facts("0.1.0", listen, admin, nodes=["n3000", "n3001"], redis="none", adopted=["n3000"])
    shown = banner(Config(), facts).splitlines()
    assert "  adopted   n3000   (from a supervisor that died; their clients stayed)" in shown
    assert facts.as_fields()["adopted"] == ["n3000"]


def test_it_shows_static_nodes_and_what_does_not_serve() -> None:
    """A start-up that is only half a success says so."""
    config = Config.model_validate({"nodes": {"local": 0, "static": ["http://10.0.0.5:3000"]}})
    facts = Facts(
        version="0.1.0",
        listen=Endpoint("::1", 80),
        admin=Endpoint("127.0.0.1", 8081),
        nodes=[],
        redis="none",
        not_ready=["worker-1 (waiting: killed by SIGKILL)"],
    )
    lines = banner(config, facts).splitlines()
    assert "  open        http://[::1]:80/" in lines
    assert "  static      http://10.0.0.5:3000" in lines
    assert lines[-1] == "  not ready   worker-1 (waiting: killed by SIGKILL)"
    assert not [line for line in lines if line.startswith("  nodes")]


def test_a_wildcard_is_reached_as_localhost() -> None:
    """A browser cannot open 0.0.0.0."""
    assert url(Endpoint("::", 8080)) == "http://localhost:8080/"
    assert url(Endpoint("10.0.0.1", 8080)) == "http://10.0.0.1:8080/"
