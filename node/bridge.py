"""Hears what python-socketio's own managers publish: `socketio.RedisManager(url, channel=…, write_only=True)`.

A process that emits through one (a worker, a Django view) keeps working when its servers become Flotilla nodes.  Every
node takes every message of that channel, which is why it is an option, and our own emitters are better.
"""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio.client import PubSub
from socketio.packet import Packet

from cluster.backoff import full_jitter
from cluster.redis_link import REDIS_AWAY, connection, reason_of
from node.clients import ClientManager
from node.codec import MAIN

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""A subscription that is silent for so long is asked for a sign of life, and given up after as long again."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0


class Bridge:
    """Hands what comes on `channel` of the Redis at `url` to the clients of `manager`, those of this node."""

    def __init__(self, url: str, channel: str, manager: ClientManager) -> None:
        self._url, self._channel, self._manager = url, channel, manager
        self.taken = self.bad = 0
        """Messages that were carried out, and those that could not be."""

    async def run(self) -> None:
        """Listen, until cancelled."""
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                async with connection(self._url, blocking=True) as link, link.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    async for message in _lively(subscription):
                        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                        if message["type"] == "message":
                            await self._take(message["data"])
            except REDIS_AWAY as exc:
                # The bus reports the outage.
                log.debug("bridge lost", extra={"reason": reason_of(exc)})
            await asyncio.sleep(next(delays))

    async def _take(self, raw: bytes) -> None:
        try:
            message = json.loads(raw)
            await self._carry_out(message)
        except Exception as exc:  # noqa: BLE001  (whatever somebody else published; the next message may be fine)
            self.bad += 1
            log.warning("bridge: message dropped", extra={"reason": f"{type(exc).__name__}: {exc}"})
        else:
            self.taken += 1

    async def _carry_out(self, message: dict[str, Any]) -> None:
        manager, space = self._manager, message.get("namespace") or MAIN
        match message["method"]:
            case "emit":
                await self._emit(message, space)
            case "disconnect":
                await manager.server.disconnect(message["sid"], space, ignore_queue=True)
            case "enter_room" if manager.directory.find(message["sid"], space):
                await manager.enter_room(message["sid"], space, message["room"])
            case "leave_room" if manager.directory.find(message["sid"], space):
                await manager.leave_room(message["sid"], space, message["room"])
            case "close_room":
                manager.basic_close_room(message["room"], space)

    async def _emit(self, message: dict[str, Any], space: str) -> None:
        data = message["data"]
        if message.get("binary"):
            data = Packet.reconstruct_binary(data[0], [b64decode(each) for each in data[1:]])
        await ClientManager.emit(
            self._manager,
            message["event"],
            # One is not a tuple, so that [None], as python-socketio writes no argument, is none.
            data[0] if len(data) == 1 else tuple(data),
            space,
            message.get("room"),
            message.get("skip_sid"),
        )


async def _lively(subscription: PubSub) -> AsyncIterator[dict[str, Any]]:
    """Yield whatever comes, pongs too.  Raises TimeoutError when the other end gives no sign of life.

    A connection to a host that vanished looks exactly like a quiet one.
    """
    asked = False
    while True:
        message = await subscription.get_message(timeout=QUIET_S)
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise TimeoutError(f"no sign of life from Redis in {2 * QUIET_S:g} s")
        else:
            asked = True
            await subscription.ping()
