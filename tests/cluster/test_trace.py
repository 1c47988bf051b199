"""cluster/trace.py: W3C Trace Context, by the rules of its section 3.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.trace import is_valid, made, trace_id
from lb.headers import Via, request_head

ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{ID}-{PARENT}-01".encode()
MADE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"


def head(*headers: tuple[bytes, bytes], made: bytes = MADE) -> list[bytes]:
    """Return the lines about traces of the head that a node gets."""
    via = Via("10.0.0.1", trusted=False, trace=made)
    lines = request_head("GET", "/", [(b"Host", b"h"), *headers], via, host="n").split(b"\r\n")
    return [line for line in lines if line.lower().startswith(b"trace")]


@pytest.mark.parametrize("suffix", [b"01", b"00", b"ff", b"a0"])
def test_any_flags_are_valid(suffix: bytes) -> None:
    """Those that we do not know as well."""
    assert is_valid(GOOD[:-2] + suffix)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:-1],
        GOOD + b"-more",
        GOOD + b"-",
        GOOD.upper(),
        b"ff" + GOOD[2:],
        b"cc" + GOOD[2:] + b"more",
        b"00-" + b"0" * 32 + GOOD[35:],
        GOOD[:36] + b"0" * 16 + b"-01",
        b" " + GOOD,
        GOOD + b"\n",
        b"\xff" * 55,
    ],
)
def test_what_the_standard_does_not_allow_is_invalid(value: bytes) -> None:
    """A node must never be handed one that its library would choke on."""
    assert not is_valid(value)


@pytest.mark.parametrize("value", [b"cc" + GOOD[2:], b"cc" + GOOD[2:] + b"-what-the-future-brings"])
def test_a_later_version_may_say_more(value: bytes) -> None:
    """3.2.4, versioning."""
    assert is_valid(value)
    assert trace_id([(b"traceparent", value)], MADE) == ID


def test_one_that_is_made_is_valid_and_new() -> None:
    """Each time another."""
    several = {made() for _ in range(100)}
    assert len(several) == 100
    assert all(is_valid(each) and each.endswith(b"-01") for each in several)


@given(st.binary(max_size=80))
def test_no_bytes_break_it(value: bytes) -> None:
    """Headers come from anybody."""
    is_valid(value)
    assert len(trace_id([(b"traceparent", value)], MADE)) == 32


def test_a_trace_that_comes_is_passed_on_unchanged() -> None:
    """With its state, and under the name as it was spelt."""
    assert head((b"TraceParent", GOOD), (b"tracestate", b"a=1")) == [b"TraceParent: " + GOOD, b"tracestate: a=1"]
    assert trace_id([(b"TRACEPARENT", GOOD)], MADE) == ID


def test_a_request_without_one_gets_one() -> None:
    """And no state: that would be another trace's."""
    assert head() == [b"traceparent: " + MADE]
    assert head((b"tracestate", b"a=1")) == [b"traceparent: " + MADE]
    assert trace_id([], MADE) == "1" * 32


@pytest.mark.parametrize("given", [[b"nonsense"], [GOOD, GOOD], [GOOD, b"nonsense"]])
def test_one_that_is_invalid_is_replaced(given: list[bytes]) -> None:
    """3.2.3: whoever cannot read it begins a new trace, and drops the state (4.3)."""
    headers = [(b"traceparent", each) for each in given]
    assert head(*headers, (b"TraceState", b"a=1")) == [b"traceparent: " + MADE]
    assert trace_id(headers, MADE) == "1" * 32


def test_with_pass_nothing_is_made_or_changed() -> None:
    """`lb.traceparent: pass`."""
    assert head(made=b"") == []
    assert head((b"traceparent", b"nonsense"), (b"tracestate", b"a=1"), made=b"") == [
        b"traceparent: nonsense",
        b"tracestate: a=1",
    ]
    assert trace_id([], b"") == ""
