"""No bytes break a promise that is made about any bytes: those that once did, and what hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import arriving, between, sockets, web
from tests.fuzz.harness import Harness

HARNESSES = (*web.HARNESSES, *arriving.HARNESSES, *sockets.HARNESSES, *between.HARNESSES)


@pytest.mark.parametrize("harness", HARNESSES, ids=str)
def test_what_once_broke_the_promise_does_not_any_more(harness: Harness) -> None:
    """And the bytes that a search begins with keep it as well."""
    for seed in harness.seeds:
        harness.check(seed)


@pytest.mark.parametrize("harness", HARNESSES, ids=str)
@given(data=st.data())
def test_the_promise_holds(harness: Harness, data: st.DataObject) -> None:
    """For bytes of pieces that the parser knows, and others between them."""
    pieces = st.lists(st.sampled_from(harness.pieces) | st.binary(max_size=4), max_size=20).map(b"".join)
    harness.check(data.draw(pieces | bent(harness)))


def bent(harness: Harness) -> st.SearchStrategy[bytes]:
    """Return strategies for seeds in which something was replaced."""

    def bend(seed: bytes, at: int, length: int, by: bytes) -> bytes:
        at %= len(seed) + 1
        return seed[:at] + by + seed[at + length :]

    by = st.sampled_from(harness.pieces) | st.binary(max_size=4)
    seeds = [seed for seed in harness.seeds if len(seed) < 1000]
    return st.builds(bend, st.sampled_from(seeds), st.integers(0, 1000), st.integers(0, 8), by)
