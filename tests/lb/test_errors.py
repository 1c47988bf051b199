"""Answers of the balancer's own."""

from __future__ import annotations

import pytest

from lb.errors import (
    AskedItself,
    BadRequest,
    BalancerError,
    BodyTooLarge,
    BodyTooSlow,
    ClientTooSlow,
    HeadTooLarge,
    NodeFailed,
    NodeTooSlow,
    NoNodeAvailable,
    NotForwarded,
    OriginRefused,
    Overloaded,
    TooManyRequests,
    UpgradeRefused,
    answer_to,
)


@pytest.mark.parametrize(
    ("exc", "status", "closes"),
    [
        (BalancerError("x"), 500, False),
        (BadRequest("x"), 400, True),
        (HeadTooLarge("x"), 431, True),
        (ClientTooSlow("x"), 408, True),
        (NotForwarded("x"), 501, True),
        (AskedItself("x"), 200, False),
        (Overloaded(5), 503, True),
        (NoNodeAvailable(3, 1), 503, False),
        (NodeFailed("x"), 502, False),
        (NodeTooSlow("x"), 504, False),
        (BodyTooSlow("x"), 408, True),
        (BodyTooLarge("x"), 413, True),
        (OriginRefused(b"x"), 403, True),
        (UpgradeRefused(b"x"), 403, True),
        (TooManyRequests("x", retry_after_s=3), 429, False),
    ],
)
def test_each_fault_has_its_status(exc: BalancerError, status: int, closes: bool) -> None:
    """One table, so that clients can rely on it; nothing of our inside is told."""
    answer = answer_to(exc, close=closes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nConnection: close\r\n" in answer) is closes
    assert exc.closes is closes
    assert str(exc).encode() not in answer or str(exc) == "x"


@pytest.mark.parametrize("exc", [Overloaded(5), NoNodeAvailable(0, 0)])
def test_what_passes_by_itself_says_when_to_come_back(exc: BalancerError) -> None:
    """RFC 9110 10.2.3."""
    assert b"\r\nRetry-After: 1\r\n" in answer_to(exc, close=False)
    assert b"Retry-After" not in answer_to(NodeFailed("x"), close=False)


def test_a_head_request_gets_a_head() -> None:
    """RFC 9110 9.3.2: with the length that the body would have."""
    whole, head = answer_to(NodeFailed("x"), close=False), answer_to(NodeFailed("x"), close=False, head_only=True)
    assert whole == head + b"502 Bad Gateway\n"
    assert b"Content-Length: 16\r\n" in head
