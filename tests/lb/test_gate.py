"""lb/gate.py: who may ask what on the admin address."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from multidict import CIMultiDict

from cluster.config import Config
from lb.gate import OPEN, SHELL, Gate

TOKEN = "correct-horse-battery"


def asked(gate: Gate, method: str = "GET", path: str = "/api/nodes", **headers: str) -> HTTPStatus | None:
    given = CIMultiDict({"Host": "localhost:8081"})
    given.update({name.replace("_", "-"): text for name, text in headers.items()})
    denied = gate.denied(method, path, given)
    return None if denied is None else denied.status


def gate(admin: str = "127.0.0.1:8081", token: str = "") -> Gate:
    return Gate.of(Config.model_validate({"lb": {"admin": admin, "admin_token": token}}).lb)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8081", "127.0.0.1:8081", "127.9.9.9", "[::1]:8081", "::1", "localhost."]
)
def test_a_caller_of_this_host_may_read_everything(host: str) -> None:
    """Under any name that this host has for itself."""
    for path in (*OPEN, *SHELL, "/api/nodes", "/api/anything"):
        assert asked(gate(), path=path, Host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8081",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "",
        "[::2]",
        "0.0.0.0",
    ],
)
def test_a_name_that_was_pointed_at_this_host_reads_nothing(host: str) -> None:
    """DNS rebinding: the page's own name is still in Host."""
    for path in (*OPEN, *SHELL, "/api/nodes"):
        assert asked(gate(), path=path, Host=host) is HTTPStatus.MISDIRECTED_REQUEST


def test_the_configured_name_of_a_loopback_address_is_one_of_ours() -> None:
    """Whatever the operator wrote."""
    assert asked(gate("localhost:8081"), Host="localhost:8081") is None
    assert asked(gate("[::1]:8081"), Host="[::1]:8081") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_what_changes_something_needs_a_header_that_a_form_cannot_send(method: str) -> None:
    """Cross-site request forgery: a form is sent with the right Host, from anywhere."""
    path = "/api/nodes/n3000/drain"
    assert asked(gate(), method, path) is HTTPStatus.FORBIDDEN
    assert asked(gate(), method, path, Content_Type="text/plain", Origin="http://evil.example") is HTTPStatus.FORBIDDEN
    assert asked(gate(), method, path, X_Flotilla="1") is None
    assert asked(gate(), method, "/metrics") is HTTPStatus.FORBIDDEN, "an open path is open for reading"


@pytest.mark.parametrize("admin", ["0.0.0.0:8081", "10.0.0.5:8081", "[::]:8081", "admin.example:8081"])
def test_beyond_loopback_only_health_and_metrics_are_open_without_a_token(admin: str) -> None:
    """Under whatever name a probe asks for them."""
    shut = gate(admin)
    assert shut.is_closed
    for path in OPEN:
        assert asked(shut, path=path, Host="10.0.0.5:8081") is None
    for path in (*SHELL, "/api/nodes"):
        assert asked(shut, path=path) is HTTPStatus.FORBIDDEN
    assert asked(shut, "POST", "/api/nodes/n3000/drain", X_Flotilla="1") is HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("admin", ["0.0.0.0:8081", "127.0.0.1:8081"])
def test_with_a_token_the_api_asks_for_it_wherever_it_listens(admin: str) -> None:
    """On loopback as well: other users of this host, and a proxy in front, reach it too."""
    kept = gate(admin, TOKEN)
    assert not kept.is_closed
    for path in (*OPEN, *SHELL):
        assert asked(kept, path=path, Host="admin.example") is None
    for method, path in (
        ("GET", "/api/nodes"),
        ("POST", "/api/nodes/n3000/drain"),
        ("POST", "/metrics"),
        ("POST", "/"),
    ):
        assert asked(kept, method, path) is HTTPStatus.UNAUTHORIZED
        assert asked(kept, method, path, X_Flotilla="1") is HTTPStatus.UNAUTHORIZED
        assert asked(kept, method, path, Authorization=f"Bearer {TOKEN}") is None
        assert asked(kept, method, path, Authorization=f"bearer  {TOKEN}", Host="admin.example") is None


@pytest.mark.parametrize(
    "shown",
    ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \udcff\xe4"],
)
def test_what_is_not_the_token_is_none(shown: str) -> None:
    """Whatever bytes it is made of."""
    assert asked(gate(token=TOKEN), Authorization=shown) is HTTPStatus.UNAUTHORIZED
