"""lb/guards.py: each limit at, below and above, without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Lb, Nodes
from lb.affinity import Client
from lb.errors import (
    BadRequest,
    BalancerError,
    BodyTooLarge,
    HeadTooLarge,
    OriginRefused,
    TooManyRequests,
    UpgradeRefused,
)
from lb.guards import MOST_LINE_BYTES, BodyLimits, Guards, HeadLimits
from lb.headers import Headers
from lb.metrics import REASONS

HOST = (b"Host", b"a")
PLAIN = Client(sid=False, session=None, cookie=None, address="192.0.2.1")


def refusal(
    guards: Guards,
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    target: str = "/",
    client: Client = PLAIN,
    body: int | None = None,
) -> type[BalancerError] | None:
    """Return what is wrong with a request, if anything is."""
    try:
        guards.check(method, target, (HOST, *headers), client, body)
    except BalancerError as exc:
        return type(exc)
    return None


def guards(share: float = 1.0, clock: Any = lambda: 0.0, **limits: Any) -> Guards:
    return Guards(Lb.model_validate(limits), share, clock)


def wire(method: str, target: str, headers: Headers) -> bytes:
    lines = [f"{method} {target} HTTP/1.1".encode(), *(b"%b: %b" % pair for pair in headers), b"", b""]
    return b"\r\n".join(lines)


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize(("method", "target"), [("GET", "/"), ("DELETE", "/a/long?path")])
def test_a_head_is_as_large_as_it_is_on_the_wire(method: str, target: str, more: int) -> None:
    """Line, fields and all that is between them."""
    size = 2000 + more - len(wire(method, target, (HOST, (b"X", b""))))
    headers = [(b"X", b"a" * size)]
    assert len(wire(method, target, (HOST, *headers))) == 2000 + more
    found = refusal(guards(max_head_bytes=2000), *headers, method=method, target=target)
    assert found is (HeadTooLarge if more > 0 else None)


@pytest.mark.parametrize(("count", "found"), [(19, None), (20, None), (21, HeadTooLarge)])
def test_a_head_has_so_many_fields(count: int, found: type[BalancerError] | None) -> None:
    """Host is one of them; a parser that has no such limit is in order."""
    assert refusal(guards(max_headers=20), *[(b"X", b"a")] * (count - 1)) is found


def test_a_line_is_no_longer_than_nodes_read_nor_than_the_head_may_be() -> None:
    """A parser is told the smaller one."""
    assert HeadLimits(32_768, 100).line_bytes == MOST_LINE_BYTES
    assert HeadLimits(2000, 100).line_bytes == 2000


@pytest.mark.parametrize(("size", "found"), [(4999, None), (5000, None), (5001, BodyTooLarge)])
def test_a_body_is_refused_by_its_length_at_once(size: int, found: type[BalancerError] | None) -> None:
    """However much of it has come; one that has none says so by any number of zeros."""
    limited = guards(max_body_bytes=5000)
    for received in (0, 17):
        assert refusal(limited, (b"content-length", b"%d" % size), method="POST", body=received) is found
    assert refusal(limited, (b"Content-Length", b"000"), method="POST", body=0) is None
    assert refusal(guards(max_body_bytes=0), (b"Content-Length", b"9" * 18), method="POST", body=0) is None


@pytest.mark.parametrize(("received", "found"), [(5000, None), (5001, BodyTooLarge)])
def test_a_chunked_body_is_refused_by_what_has_come(received: int, found: type[BalancerError] | None) -> None:
    """When the head is looked at; later lb/upload.py asks again."""
    limited = guards(max_body_bytes=5000)
    assert refusal(limited, (b"Transfer-Encoding", b"chunked"), method="POST", body=received) is found


def test_how_long_a_body_may_take_grows_with_what_comes() -> None:
    """As Apache's RequestReadTimeout: so many seconds, and one more for each so many bytes."""
    limits = BodyLimits(most_bytes=0, idle_s=10, whole_s=20, bytes_per_s=500)
    assert limits.patience_s(0, 0) == 10
    assert limits.patience_s(0, 15) == 5
    assert limits.patience_s(0, 20) == 0
    assert limits.patience_s(2500, 20) == 5
    assert limits.patience_s(10**9, 10**6) == 10
    assert BodyLimits(0, 10, 20, 0).patience_s(10**9, 19) == 1, "a rate of 0 gains nothing"
    assert BodyLimits(0, 10, 0, 500).patience_s(0, 10**6) == 10, "0 is no limit"


@given(st.integers(0, 10**9), st.floats(0, 10**6))
def test_who_sends_at_the_least_rate_is_never_too_slow(received: int, waited_s: float) -> None:
    """And who sends at less than that is at last."""
    limits = BodyLimits(most_bytes=0, idle_s=10, whole_s=20, bytes_per_s=500)
    assert (limits.patience_s(received, waited_s) > 0) is (waited_s < 20 + received / 500)


ORIGIN = (b"Origin", b"https://evil.example")
SOCKET = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


@pytest.mark.parametrize(
    ("changes", "headers", "method", "client"),
    [
        (True, SOCKET, "GET", PLAIN),
        (True, [], "POST", PLAIN),
        (True, [], "DELETE", PLAIN),
        (True, [], "GET", Client(sid=True, session=None, cookie=None, address="")),
        (True, [], "GET", Client(sid=False, session=None, cookie=None, address="", begins=True)),
        (False, [], "GET", PLAIN),
        (False, [], "HEAD", PLAIN),
        (False, [], "OPTIONS", PLAIN),
    ],
)
def test_an_origin_is_looked_at_where_it_matters(
    changes: bool, headers: list[tuple[bytes, bytes]], method: str, client: Client
) -> None:
    """Upgrades, Engine.IO, and whatever is not safe (RFC 9110 9.2.1); reading is for CORS to judge."""
    limited = guards(allowed_origins=["https://good.example"])
    refused = OriginRefused if changes else None
    assert refusal(limited, *headers, ORIGIN, method=method, client=client) is refused
    assert refusal(limited, *headers, (b"origin", b"https://good.example"), method=method, client=client) is None
    assert refusal(limited, *headers, method=method, client=client) is None, "no browser"
    assert refusal(guards(), *headers, ORIGIN, method=method, client=client) is None, "not asked for"


def test_two_origins_are_none() -> None:
    """RFC 6454 7.3; also if both are allowed."""
    limited = guards(allowed_origins=["https://good.example"])
    twice = [(b"Origin", b"https://good.example")] * 2
    assert refusal(limited, *SOCKET, *twice) is BadRequest


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"h2c", UpgradeRefused),
        (b"H2C", UpgradeRefused),
        (b"TLS/1.0", UpgradeRefused),
        (b"websocket, h2c", UpgradeRefused),
        (b"websocket", None),
        (b"WebSocket", None),
        (b"", None),
    ],
)
def test_other_upgrades_are_refused_if_that_is_wanted(value: bytes, found: type[BalancerError] | None) -> None:
    """Whether or not Connection names it: some servers do not look there."""
    for connection in ([], [(b"Connection", b"Upgrade, HTTP2-Settings")]):
        assert refusal(guards(other_upgrades="refuse"), *connection, (b"Upgrade", value)) is found
        assert refusal(guards(), *connection, (b"Upgrade", value)) is None


def _kinds(of: type[BalancerError]) -> set[type[BalancerError]]:
    return {of}.union(*(_kinds(kind) for kind in of.__subclasses__()))


def test_every_reason_is_in_the_table_and_has_its_series() -> None:
    """docs/guards.md tells what each word of `flotilla_rejected_total` means, and none that there is not."""
    page = Path(__file__).parents[2].joinpath("docs", "guards.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.partition("## Heads")[0].splitlines()]
    told = {word for row in rows if len(row) == 8 for word in re.findall(r"`(\w+)`", row[5])}
    assert told == set(REASONS)
    assert {kind.counted_as for kind in _kinds(BalancerError)} - {""} <= told


def test_every_key_in_the_table_is_one() -> None:
    """With the default that it says."""
    page = Path(__file__).parents[2].joinpath("docs", "guards.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.partition("## Heads")[0].splitlines()]
    keys = [key for row in rows if len(row) == 8 for key in re.findall(r"`([\w.]+)`", row[2])]
    assert len(keys) > 15
    assert [key for key in keys if key.removeprefix("nodes.") not in (Nodes if "." in key else Lb).model_fields] == []
    limits = Lb()
    assert (limits.max_head_bytes, limits.max_headers, limits.max_body_bytes) == (32 * 1024, 100, 1024**3)
    assert (limits.body_timeout_s, limits.min_body_bytes_per_s, limits.idle_timeout_s) == (20, 500, 75)


def test_an_address_is_held_to_its_rate() -> None:
    """This worker's part of it, after a whole burst; and told when to come back."""
    limited = guards(share=0.5, requests_per_s_per_address=1, request_burst_per_address=3)
    assert [refusal(limited) for _ in range(4)] == [None] * 3 + [TooManyRequests]
    with pytest.raises(TooManyRequests) as told:
        limited.check("GET", "/", (HOST,), PLAIN, None)
    assert told.value.retry_after_s == 1
    other = Client(sid=False, session=None, cookie=None, address="192.0.2.2")
    assert refusal(limited, client=other) is None


def test_what_is_refused_otherwise_takes_nothing_from_the_rate() -> None:
    """It ends its connection instead."""
    limited = guards(requests_per_s_per_address=1, request_burst_per_address=1, other_upgrades="refuse")
    for _ in range(3):
        assert refusal(limited, (b"Upgrade", b"h2c")) is UpgradeRefused
    assert UpgradeRefused.closes
    assert refusal(limited) is None
