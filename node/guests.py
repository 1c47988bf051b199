"""WebSockets that the application serves itself, beside Socket.IO: they too are told when the node leaves.

aiohttp's `WebSocketResponse` objects are seen as they are prepared; a channel of ours is opened through here.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakSet

from aiohttp import web

from cluster.closing import CloseCode
from node.arrival import TOLD
from node.channel import Channel, Receiver
from node.farewell import Fate
from node.opening import take_over

if TYPE_CHECKING:
    from node.engine import Engine

log = logging.getLogger(__name__)


class Guests:
    """All of them, on the node of `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._responses: WeakSet[web.WebSocketResponse] = WeakSet()
        self._channels: set[Channel] = set()
        self._nobody_left = asyncio.Event()

    async def seen(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """An `on_response_prepare` hook.  Raises web.HTTPServiceUnavailable for a WebSocket while the node leaves."""
        if isinstance(response, web.WebSocketResponse):
            self._admit()
            self._responses.add(response)

    def open(self, request: web.Request, receiver: Receiver) -> tuple[Channel, web.StreamResponse]:
        """Open the WebSocket that `request` asks for as a channel: as node.opening.take_over, with the engine's limits.

        Raises web.HTTPException: it opens none, or the node leaves.
        """
        self._engine.settle()
        self._admit()
        channel, response = take_over(request, receiver, self._engine.limits)
        on_end = channel.on_end

        def ended(fate: Fate) -> None:
            self._channels.discard(channel)
            if not self._channels:
                self._nobody_left.set()
            if on_end is not None:
                on_end(fate)

        self._channels.add(channel)
        channel.on_end = ended
        return channel, response

    def _admit(self) -> None:
        if self._engine.leaving:
            raise web.HTTPServiceUnavailable(text="this node leaves\n", headers={"Retry-After": "1"})

    @property
    def count(self) -> int:
        """How many are open and have not been told to go."""
        return len(self._open_responses()) + sum(channel.is_open for channel in self._channels)

    def _open_responses(self) -> list[web.WebSocketResponse]:
        return [each for each in self._responses if each.prepared and not each.closed]

    def send_away(self, most: int, tasks: asyncio.TaskGroup, within_s: float) -> None:
        """Close up to `most` with 1001; `tasks` wait for their answers, for at most `within_s`."""
        channels = list(islice((channel for channel in self._channels if channel.is_open), most))
        for channel in channels:
            channel.close(CloseCode.GOING_AWAY)
        for response in self._open_responses()[: most - len(channels)]:
            tasks.create_task(_close_within(response, within_s))

    async def close_all(self, within_s: float) -> int:
        """Close all with 1001; return how many were not closed after `within_s`."""
        responses = self._open_responses()
        for channel in tuple(self._channels):
            channel.close(CloseCode.GOING_AWAY)
        if not responses and not self._channels:
            return 0
        self._nobody_left.clear()
        async with asyncio.TaskGroup() as group:
            closing = [group.create_task(_close(each)) for each in responses]
            if self._channels:
                closing.append(group.create_task(self._gone()))
            # Each gets its turn even if there is no time: the close frame leaves.
            _, late = await asyncio.wait(closing, timeout=max(0.0, within_s))
            for task in late:
                task.cancel()
        return sum(task.cancelled() for task in closing[: len(responses)]) + len(self._channels)

    async def _gone(self) -> None:
        await self._nobody_left.wait()


async def _close(response: web.WebSocketResponse) -> None:
    if not response.closed:
        response[TOLD] = CloseCode.GOING_AWAY
    await response.close(code=CloseCode.GOING_AWAY, message=b"server leaves")


async def _close_within(response: web.WebSocketResponse, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await _close(response)
    except TimeoutError:
        # It does not read, or does not answer; aiohttp has closed its connection.
        log.info("WebSocket cut: no answer to its close", extra={"within_s": within_s})
