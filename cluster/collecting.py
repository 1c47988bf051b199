"""When Python looks for cyclic garbage: among what is new as ever, among what stays in small portions.

A full collection visits every object of the process, and nothing else runs meanwhile: 50 ms and more where some
thousand clients are connected.  CPython (up to 3.13) begins one whenever a quarter more objects have come than there
were: in a reconnect storm, at the cost of those that are connected.  Here instead

* what was loaded at the start is put away (gc.freeze), where no collection visits it;
* what has outlived the young generations is visited once, a portion at a time, and then put away as well.

What is put away goes when nobody refers to it any more, as everything does; only cycles among it stay.  So all is
visited after all, but seldom, and only if it has become a quarter more since the last time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Self

log = logging.getLogger(__name__)

PORTION = 10_000
"""Objects that are visited at once: a few milliseconds."""

LOOK_S = 0.25
"""How often those are counted that have come."""

ALL_S = 600.0
"""No two visits to all objects lie closer together."""

GROWTH = 1.25
"""How many times as many there must be for such a visit."""

_NEVER = 2**31 - 1


class Collector:
    """Keeps to these rules while it is entered, in a process that is all ours.

    An application that has switched the collector off (gc.disable) is left alone.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._thresholds = gc.get_threshold()
        self._put_away = 0
        """How many objects that were when all had been visited, which was at `_all_at`."""
        self._all_at = 0.0

    def __enter__(self) -> Self:
        if gc.isenabled() and sys.implementation.name == "cpython":
            gc.set_threshold(*self._thresholds[:2], _NEVER)
            self._visit_all()
            self._look_again()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()

    def look(self) -> None:
        """Visit what has come, if that is enough for a portion; and all, if it is time for that."""
        began = self._clock()
        if began - self._all_at >= ALL_S:
            self._all_at = began
            if gc.get_freeze_count() > GROWTH * self._put_away:
                self._visit_all()
                took_ms = round((self._clock() - began) * 1000)
                log.info("all objects visited for garbage", extra={"ms": took_ms, "left": self._put_away})
        elif len(gc.get_objects(generation=2)) >= PORTION:
            gc.collect()
            gc.freeze()

    def _visit_all(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._put_away, self._all_at = gc.get_freeze_count(), self._clock()

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._on_time)

    def _on_time(self) -> None:
        self.look()
        self._look_again()
