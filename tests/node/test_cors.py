"""Which pages may talk to a server: `cors_allowed_origins` and `cors_credentials` as python-socketio documents them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.errors import UsageError
from node.cors import Allowed, Cors

PAGE = "http://page.example"


def allows(allowed: Allowed, origin: str = PAGE, **headers: str) -> bool:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Cors(allowed, credentials=True).allows(origin, given, lambda: {"HTTP_ORIGIN": origin})


@pytest.mark.parametrize(
    ("origin", "headers", "expected"),
    [
        ("http://a.example", {"Host": "a.example"}, True),
        ("http://a.example:8080", {"Host": "a.example:8080"}, True),
        ("https://a.example", {"Host": "a.example"}, False),
        ("https://a.example", {"Host": "a.example", "X_Forwarded_Proto": "https"}, True),
        ("https://front", {"Host": "back", "X_Forwarded_Proto": "https, http", "X_Forwarded_Host": "front, x"}, True),
        ("http://front", {"Host": "back", "X_Forwarded_Host": "front"}, True),
        ("http://b.example", {"Host": "a.example"}, False),
        ("http://a.example.evil", {"Host": "a.example"}, False),
        ("null", {"Host": "a.example"}, False),
        ("http://a.example", {}, False),
    ],
)
def test_by_default_only_pages_of_the_server_itself_may(origin: str, headers: dict[str, str], expected: bool) -> None:
    """As it sees itself, or as a proxy in front of it says."""
    assert allows(None, origin, **headers) is expected


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("*", True),
        (["*"], True),
        ([PAGE], True),
        (PAGE, True),
        ((PAGE, "http://other"), True),
        ("http://other", False),
        (["http://other"], False),
        ([], True),
        (lambda origin: origin == PAGE, True),
        (lambda origin: False, False),
        (lambda origin, environ: environ["HTTP_ORIGIN"] == PAGE, True),
        (lambda *asked: len(asked) == 2, True),
    ],
)
def test_a_rule_may_be_given(allowed: Any, expected: bool) -> None:
    """All, some, or whoever a function says; an empty list switches the rules off."""
    assert allows(allowed) is expected


def test_a_rule_that_fails_is_raised() -> None:
    """Not taken for one with other parameters."""

    def fails(origin: str, environ: Mapping[str, Any]) -> bool:
        raise TypeError("as planned")

    with pytest.raises(TypeError, match="as planned"):
        allows(fails)


def test_a_rule_that_cannot_be_asked_is_refused_at_once() -> None:
    """Before any request."""
    with pytest.raises(UsageError, match="must take the origin"):
        Cors(type("Odd", (), {"__call__": None, "__signature__": "none"})(), credentials=True)


def test_the_answer_names_the_origin() -> None:
    """Not `*`, which excludes credentials; and caches must know."""
    headers = dict(Cors("*", credentials=True).headers("GET", {"Origin": PAGE}))
    assert headers == {
        "Access-Control-Allow-Origin": PAGE,
        "Vary": "Origin",
        "Access-Control-Allow-Credentials": "true",
    }
    assert Cors("*", credentials=False).headers("GET", {}) == []
    assert Cors([], credentials=True).headers("GET", {"Origin": PAGE}) == []


def test_the_answer_to_a_preflight_says_what_is_allowed() -> None:
    """Methods, and the headers that were asked for."""
    headers = dict(Cors("*", credentials=False).headers("OPTIONS", {"Access-Control-Request-Headers": "a, b"}))
    assert headers == {
        "Access-Control-Allow-Methods": "OPTIONS, GET, POST",
        "Access-Control-Allow-Headers": "a, b",
    }
