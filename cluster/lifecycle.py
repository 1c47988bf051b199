"""The life of one process: its event loop, the signals that end it, and the lifeline to the supervisor that started it.

Stopping is an argument: a composition root gets an `asyncio.Event` that is set when the process shall end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from cluster.errors import StartError, UsageError

log = logging.getLogger(__name__)

READY = b"ready\n"
"""What a child writes to its ready descriptor, once, when it serves."""

GIVE_UP = UsageError.exit_code
"""Exit status of a child that would fail the same way again: the supervisor does not restart it."""


def run(main: Callable[[asyncio.Event], Awaitable[int]], *, lifeline_fd: int | None = None) -> int:
    """Run `main` on uvloop where it is installed, else on asyncio's own loop, until it returns its exit status.

    SIGTERM, SIGINT and the end of the lifeline set the event that `main` is given; a second signal ends the process
    at once.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_stopped(main, lifeline_fd))


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[int]], lifeline_fd: int | None) -> int:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if lifeline_fd is not None:
        loop.add_reader(lifeline_fd, _on_lifeline, loop, lifeline_fd, stopping)
    return await main(stopping)


def _on_lifeline(loop: asyncio.AbstractEventLoop, fd: int, stopping: asyncio.Event) -> None:
    # The supervisor holds the other end and never writes: readable means that it is gone, however it died.
    loop.remove_reader(fd)
    log.warning("stopping: the supervisor is gone")
    stopping.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def say_ready(ready_fd: int | None) -> None:
    """Tell the supervisor, if there is one, that this process serves."""
    if ready_fd is None:
        return
    try:
        os.write(ready_fd, READY)
        os.close(ready_fd)
    except OSError as exc:
        # The supervisor died meanwhile; the lifeline tells that too, and is the one that decides.
        log.debug("nobody to report to", extra={"reason": str(exc)})


def fail(exc: StartError | UsageError) -> NoReturn:
    """End the process with the one readable line (or lines) of `exc` and its exit status."""
    sys.stderr.write(f"{exc}\n")
    sys.exit(exc.exit_code)
