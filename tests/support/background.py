"""Something asynchronous that runs beside several tests: in an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(enter: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Keep the context that `enter` returns open for a block, and give what it gives."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="in background")
    thread.start()
    try:
        context = enter()
        entered = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(120)
        try:
            yield entered
        finally:
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
