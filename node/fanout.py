"""Messages between the nodes: python-socketio's pub/sub client manager over our own Redis link.

An emit reaches the clients of its own node first, without Redis (node/clients.py), and is then published for the other
nodes; so local clients get everything while Redis is away.  What is for one client of this node is not published.
python-socketio's documented seam for a backend is the pair `_publish` and `_listen`, and we fill it ourselves, because
its Redis backend (5.18) retries with delays of up to a minute, holds up every emit while Redis hangs, and may listen to
a dead connection for hours.

What is on the channel is python-socketio's own JSON, so an outside `socketio.RedisManager(url, channel=…,
write_only=True)` can emit to our clients.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import redis.asyncio as redis
from redis.asyncio.client import PubSub
from socketio.async_pubsub_manager import AsyncPubSubManager
from socketio.packet import Packet

from cluster.backoff import full_jitter
from cluster.redis_link import REDIS_AWAY, connection, reason_of
from node.clients import ClientManager, arguments_of
from node.codec import MAIN, detached
from node.rooms import Rooms, rooms_in

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""A subscription that is silent for so long is asked for a sign of life, and given up after as long again."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0


class Fanout(AsyncPubSubManager, ClientManager):  # type: ignore[misc]
    """Client manager of a node whose cluster talks through the Redis at `url`, on `channel`.

    `publisher` is a client for that URL and for nothing but this.  `run()` listens, and must run as long as the node
    serves; `dropped` counts messages that other nodes did not get.
    """

    name = "flotilla"

    def __init__(self, url: str, publisher: redis.Redis, channel: str) -> None:
        super().__init__(channel=channel)
        self._url = url
        self._publisher = publisher
        # One publisher at a time: on one connection two emits of a handler arrive in the order in which they left.
        self._publishing = asyncio.Lock()
        self._cannot_publish = asyncio.Event()
        self._troubles: set[str] = set()
        self.dropped = 0

    def initialize(self) -> None:
        """python-socketio calls this with the first client, to start its listener.  Ours is `run`, started earlier."""

    async def run(self) -> None:
        """Hand what other nodes publish to our clients, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._thread())
            group.create_task(self._probe())

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str | None = None,
        room: Rooms | None = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: Callable[..., Any] | None = None,
        to: Rooms | None = None,
        *,
        volatile: bool = False,
        except_rooms: Rooms | None = None,
        ignore_queue: bool = False,
        **_: Any,
    ) -> None:
        """Send an event to the clients here, and then to those of the other nodes.

        Only one room can acknowledge.  Raises TypeError for data that cannot be sent, before anybody has it.
        """
        target, space = room if to is None else to, namespace or MAIN
        options: dict[str, Any] = {
            "skip_sid": skip_sid,
            "volatile": volatile,
            "except_rooms": except_rooms,
        }
        if ignore_queue or self.directory.find(target, space) is not None:
            await ClientManager.emit(self, event, data, space, room=target, callback=callback, **options)
            return
        if callback is not None:
            # Whoever is asked answers to the node that asks, which keeps the callback under the room's name.
            await AsyncPubSubManager.emit(self, event, data, space, target, skip_sid, callback)
            return
        await ClientManager.emit(self, event, data, space, room=target, **options)
        skipped = skip_sid if skip_sid is None or isinstance(skip_sid, str) else list(skip_sid)
        message = {
            "method": "emit",
            "event": event,
            **_portable(data),
            "namespace": space,
            "room": target if target is None or isinstance(target, str | int) else list(rooms_in(target)),
            "skip_sid": skipped,
            "callback": None,
            "host_id": self.host_id,
        }
        if volatile or except_rooms is not None:
            message |= {"volatile": volatile, "except_rooms": list(rooms_in(except_rooms))}
        await self._publish(message)

    async def _handle_emit(self, message: dict[str, Any]) -> None:
        if message.get("callback"):
            await AsyncPubSubManager._handle_emit(self, message)
            return
        data = message["data"]
        if message.get("binary"):
            data = Packet.reconstruct_binary(data[0], [b64decode(each) for each in data[1:]])
        await ClientManager.emit(
            self,
            message["event"],
            # One is not a tuple, so that [None], as python-socketio writes no argument, is none.
            data[0] if len(data) == 1 else tuple(data),
            message.get("namespace") or MAIN,
            room=message.get("room"),
            skip_sid=message.get("skip_sid"),
            volatile=bool(message.get("volatile")),
            except_rooms=message.get("except_rooms"),
        )

    async def _publish(self, data: Any) -> None:
        async with self._publishing:
            if self._cannot_publish.is_set():
                self.dropped += 1
                return
            try:
                await self._publisher.publish(self.channel, self.json.dumps(data))
            except REDIS_AWAY as exc:
                # Local clients have the message already; what the others miss is counted, and told once.
                self.dropped += 1
                self._cannot_publish.set()
                self._lost("publish", exc)

    async def _probe(self) -> None:
        """Find out when Redis takes messages again: the application's own would each wait for a time-out."""
        while True:
            await self._cannot_publish.wait()
            for delay in full_jitter(RETRY_FIRST_S, RETRY_MOST_S):
                await asyncio.sleep(delay)
                try:
                    await self._publisher.ping()
                except REDIS_AWAY:
                    continue  # told already
                break
            self._cannot_publish.clear()
            self._back("publish")

    async def _listen(self) -> AsyncIterator[bytes]:
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                async with connection(self._url, blocking=True) as link, link.pubsub() as subscription:
                    await subscription.subscribe(self.channel)
                    async for message in _lively(subscription):
                        if message["type"] == "message":
                            yield message["data"]
                        else:
                            delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
                            self._back("listen")
            except REDIS_AWAY as exc:
                self._lost("listen", exc)
            await asyncio.sleep(next(delays))

    def _lost(self, direction: str, exc: BaseException) -> None:
        if not self._troubles:
            log.warning("bus lost: messages stay on this node", extra={"reason": reason_of(exc)})
        self._troubles.add(direction)

    def _back(self, direction: str) -> None:
        if direction in self._troubles:
            self._troubles.discard(direction)
            if not self._troubles:
                log.info("bus is back", extra={"dropped": self.dropped})


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


def _portable(data: Any) -> dict[str, Any]:
    """Return `data` as python-socketio publishes it: a list of arguments, with the bytes in it apart."""
    arguments = list(arguments_of(data))
    attachments: list[bytes] = []
    bare = detached(arguments, attachments)
    if not attachments:
        return {"data": arguments, "binary": False}
    return {"data": [bare, *[b64encode(each).decode() for each in attachments]], "binary": True}
