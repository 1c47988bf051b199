"""A limit that is put off again and again, under one timer."""

from __future__ import annotations

import asyncio
import gc
import weakref

from lb.deadline import Deadline
from tests.lb.conftest import Run
from tests.support.waiting import eventually, lastingly


def test_it_comes_when_it_was_last_given(run: Run) -> None:
    """Put off, brought forward, taken back, and given again after it has come."""

    async def main() -> None:
        came: list[int] = []
        deadline = Deadline(lambda: came.append(1))
        deadline.within(30)
        deadline.within(0.02)
        await eventually(lambda: came == [1])
        deadline.within(0.02)
        deadline.within(0)
        await lastingly(lambda: came == [1], 0.1)
        deadline.within(0.02)
        deadline.within(0.2)
        began = asyncio.get_running_loop().time()
        await eventually(lambda: came == [1, 1])
        assert asyncio.get_running_loop().time() - began >= 0.19
        deadline.within(0.02)
        deadline.cancel()
        await lastingly(lambda: came == [1, 1], 0.1)

    run(main)


def test_a_cancelled_one_keeps_nobody_alive(run: Run) -> None:
    """Its owner is freed at once: no collector has to find the two."""

    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(self.expired)

        def expired(self) -> None: ...

    async def main() -> None:
        gc.disable()
        try:
            owner = Owner()
            seen = weakref.ref(owner)
            owner.deadline.within(30)
            owner.deadline.cancel()
            del owner
            await asyncio.sleep(0)
            assert seen() is None
        finally:
            gc.enable()

    run(main)
