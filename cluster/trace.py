"""Which trace a request belongs to: the header `traceparent` (https://www.w3.org/TR/trace-context/), passed or made.

Pure.  We make no spans, so one that comes is passed on as it is.  One that is made says "sampled", as a node's tracing
library would decide by itself: most record what has a parent only if the parent was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import getrandbits

PARENT, STATE = b"traceparent", b"tracestate"

# 3.2.2: no field may be all zeros, version ff is forbidden, and a later version may say more behind.
_FORM = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?",
    re.DOTALL,
)


def made() -> bytes:
    """Return the traceparent of a new trace."""
    # Chance is enough: nothing secret hangs on it (3.2.2.3), and each request pays for it.
    return b"00-%032x-%016x-01" % (getrandbits(128) | 1, getrandbits(64) | 1)  # neither may be zero


def is_valid(traceparent: bytes) -> bool:
    return _id_in(traceparent) is not None


def trace_id(headers: Sequence[tuple[bytes, bytes]], made: bytes) -> str:
    """Return the id of the trace that a request with these `headers` belongs to: its own, else that which was made."""
    given = [value for name, value in headers if name.lower() == PARENT]
    found = _id_in(given[0]) if len(given) == 1 else None
    return found or (made[3:35].decode() if made else "")


def _id_in(traceparent: bytes) -> str | None:
    match = _FORM.fullmatch(traceparent)
    if match is None or (match[2] is not None and traceparent.startswith(b"00")):
        return None
    return match[1].decode()
