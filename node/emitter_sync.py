"""`SyncEmitter`: an Emitter for code that is not asynchronous, a Django view or a script."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from node.emitter import Emitter

P = ParamSpec("P")
R = TypeVar("R")


class _Background:
    """A thread in which an Emitter lives."""

    def __init__(self, emitter: Emitter) -> None:
        self.pid = os.getpid()
        self._emitter = emitter
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._main, name="flotilla-emitter", daemon=True)
        self._thread.start()
        self._loop = self._ready.result()

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)

    async def _live(self) -> None:
        self._stopping = asyncio.Event()
        async with self._emitter:
            self._ready.set_result(asyncio.get_running_loop())
            await self._stopping.wait()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End when all that was emitted has left."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


def _waiting(
    method: Callable[Concatenate[Emitter, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncEmitter, P], R]:
    def call(self: SyncEmitter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._started().run(method(self._emitter, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class SyncEmitter:
    """As Emitter, in threads: `with SyncEmitter(url) as emitter`, or one for the whole process, that needs no block.

    It begins with the first call; in a process that was forked, once more.  What was emitted leaves before the process
    ends, unless it is killed.
    """

    def __init__(self, redis: str, cluster: str = "flotilla", *, serializer: Any = "default", json: Any = None) -> None:
        self._make = partial(Emitter, redis, cluster, serializer=serializer, json=json)
        self._emitter = self._make()
        self._background: _Background | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _started(self) -> _Background:
        if self._pid != os.getpid():
            # The thread, and perhaps one that held the lock, stayed in the parent.
            self._pid, self._lock, self._background = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._background is None:
                self._emitter = self._make()
                self._background = _Background(self._emitter)
                atexit.register(self.close)
            return self._background

    def close(self) -> None:
        """Wait until all that was emitted has left, and end; the next call begins anew."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None and background.pid == os.getpid():
            atexit.unregister(self.close)
            background.stop()

    def __enter__(self) -> SyncEmitter:
        self._started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    emit = _waiting(Emitter.emit)
    call = _waiting(Emitter.call)
    broadcast_call = _waiting(Emitter.broadcast_call)
    fetch_sockets = _waiting(Emitter.fetch_sockets)
    sockets_join = _waiting(Emitter.sockets_join)
    sockets_leave = _waiting(Emitter.sockets_leave)
    disconnect_sockets = _waiting(Emitter.disconnect_sockets)
    server_side_emit = _waiting(Emitter.server_side_emit)
    server_side_call = _waiting(Emitter.server_side_call)
    server_count = _waiting(Emitter.server_count)
