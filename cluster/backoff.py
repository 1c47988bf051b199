"""Delays between attempts.  Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def full_jitter(first_s: float, most_s: float, rng: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield delays in seconds, each uniform in [0, bound), the bound doubling from `first_s` to `most_s`.

    Full jitter, so that processes which failed together do not all come back together.
    """
    bound = first_s
    while True:
        yield rng() * bound
        bound = min(most_s, bound * 2)
