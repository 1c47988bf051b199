"""The life of one process: its event loop, the signals that end it, and the lifeline to the supervisor that started it.

Stopping is an argument: a composition root gets an `asyncio.Event` that is set when the process shall end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cluster import logs
from cluster.errors import StartError, UsageError
from cluster.outlive import Outliving, Terms, Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

READY = b"ready\n"
"""What a child writes to its ready descriptor, once, when it serves."""

GIVE_UP = UsageError.exit_code
"""Exit status of a child that would fail the same way again: the supervisor does not restart it."""


def run(
    main: Callable[[asyncio.Event], Awaitable[int]],
    *,
    lifeline_fd: int | None = None,
    on_second_signal: Callable[[], None] | None = None,
    on_hangup: Callable[[], None] | None = None,
    starts_children: bool = False,
) -> int:
    """Run `main` on uvloop where it is installed, else on asyncio's own loop, until it returns its exit status.

    A process that `starts_children` runs on asyncio's: with uvloop (0.23) they inherit descriptors that nobody passed.

    SIGTERM, SIGINT and the end of the lifeline set the event that `main` is given, the latter not before the time that
    the environment gives for another supervisor to come (cluster/outlive.py).  A second signal calls
    `on_second_signal` if there is one; without, and after that, a signal ends the process at once (status 128 + n),
    unless it has a lifeline: then that is its supervisor's business.

    In a process of a stack SIGHUP lets the log follow its settings, and calls `on_hangup` if there is one.

    What `main` raises ends the process: StartError and UsageError with their text on standard error and their exit
    code, anything else with a traceback in the log and status 1.
    """
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop if starts_children else _loop_factory()) as runner:
            return runner.run(_until_stopped(main, lifeline_fd, on_second_signal, on_hangup))
    except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001  the one edge at which a process ends
        return _explain(exc)


async def _until_stopped(
    main: Callable[[asyncio.Event], Awaitable[int]],
    lifeline_fd: int | None,
    on_second_signal: Callable[[], None] | None,
    on_hangup: Callable[[], None] | None,
) -> int:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    second = on_second_signal

    def on_signal(number: signal.Signals) -> None:
        nonlocal second
        if not stopping.is_set():
            log.info("stopping", extra={"signal": number.name})
            stopping.set()
        elif second is not None:
            log.warning("stopping at once", extra={"signal": number.name})
            second()
            second = None
        elif lifeline_fd is not None:
            # Who signals a whole cgroup (systemd's KillMode=control-group) tells us what our supervisor tells us too;
            # that one kills us if we take too long.
            log.debug("stopping already", extra={"signal": number.name})
        else:
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if file := os.environ.get(logs.FOLLOW):
        loop.add_signal_handler(signal.SIGHUP, _hang_up, Path(file), on_hangup)
    if lifeline_fd is not None:
        # What this process starts shall not hold it.
        os.set_inheritable(lifeline_fd, False)
        if (terms := Terms.given()) is not None:
            _outlive(loop, lifeline_fd, terms, stopping)
        else:
            loop.add_reader(lifeline_fd, _on_lifeline, loop, lifeline_fd, stopping)
    return await main(stopping)


def _hang_up(file: Path, on_hangup: Callable[[], None] | None) -> None:
    logs.follow(file)
    if on_hangup is not None:
        on_hangup()


class Stopped(Exception):
    """The process shall end, so what was being done was left."""


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it and raise Stopped as soon as `stopping` is set."""
    async with asyncio.TaskGroup() as tasks:
        doing, waiting = tasks.create_task(work), tasks.create_task(stopping.wait())
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        waiting.cancel()
    if doing.cancelled():
        raise Stopped
    return doing.result()


def _explain(exc: BaseException) -> int:
    """Say why the process ends, and return its exit status."""
    leaves = list(_leaves(exc))
    ours = [leaf for leaf in leaves if isinstance(leaf, StartError | UsageError)]
    if len(ours) == len(leaves):
        for line in dict.fromkeys(map(str, ours)):
            sys.stderr.write(f"{line}\n")
        return max(leaf.exit_code for leaf in ours)
    for leaf in leaves:
        log.critical("crashed", exc_info=leaf, extra={"error": type(leaf).__name__})
    return 1


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _on_lifeline(loop: asyncio.AbstractEventLoop, fd: int, stopping: asyncio.Event) -> None:
    # The supervisor holds the other end and never writes: readable means that it is gone, however it died.
    loop.remove_reader(fd)
    log.warning("stopping: the supervisor is gone")
    stopping.set()


def _outlive(loop: asyncio.AbstractEventLoop, fd: int, terms: Terms, stopping: asyncio.Event) -> None:
    """Go on when the supervisor dies, as `terms` say."""

    def on_turn(turn: Turn) -> None:
        match turn:
            case Turn.ALONE:
                log.warning("the supervisor is gone: serving on", extra={"at_most_s": terms.outlive_s})
            case Turn.ADOPTED:
                log.info("taken over by another supervisor", extra={"lost_output_bytes": outliving.lost_bytes})
            case Turn.OVER:
                log.warning("stopping: the supervisor is gone, and no other came in time")
                stopping.set()

    def tell(turn: Turn) -> None:
        try:
            loop.call_soon_threadsafe(on_turn, turn)
        except RuntimeError:
            # The loop is closed: this process is ending anyway.
            return

    outliving = Outliving(fd, terms, tell)
    outliving.start()


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
