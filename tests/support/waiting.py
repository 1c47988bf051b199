"""Wait for a condition, with a deadline: the only way in which a test of ours waits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from aiohttp import ClientConnectionError

T = TypeVar("T")


@overload
async def eventually(question: Callable[[], Awaitable[T]], *, within_s: float = ..., what: str = ...) -> T: ...


@overload
async def eventually(question: Callable[[], T], *, within_s: float = ..., what: str = ...) -> T: ...


async def eventually(question: Callable[[], Any], *, within_s: float = 30.0, what: str = "") -> Any:
    """Ask `question` until its answer is true, and return that answer.

    `within_s` guards against what hangs and says nothing of speed: a loaded machine may be slow.

    An AssertionError, or an error of a connection, that it raises counts as "not yet".  Raises AssertionError at the
    deadline, with the last answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        last: object
        try:
            answer = question()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            last = answer
        except (AssertionError, ConnectionError, ClientConnectionError) as exc:
            last = exc
        if loop.time() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or question}; last: {last!r}")
        await asyncio.sleep(0.02)


async def lastingly(question: Callable[[], object], for_s: float, *, what: str = "") -> None:
    """Raise AssertionError unless the answer to `question` is true now and stays true for `for_s`.

    For what must *not* happen: as long as it has not, only time can tell.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + for_s
    while loop.time() < until:
        assert question(), f"not for {for_s:g} s: {what or question}"
        await asyncio.sleep(0.02)
