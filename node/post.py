"""Messages between nodes over the bus: each with its origin and number, so that everybody takes it once, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from time import time
from typing import Any

from cluster.channels import Channel, Channels
from node.bus import Bus, BusLimits
from node.fate import Fate
from node.lag import Histogram
from node.wire import BadWire, Content, Emit, Envelope, decode, encode, is_from

log = logging.getLogger(__name__)

MOST_ORIGINS = 4096
MOST_DOUBLE = 4096
COMPLAIN_S = 60.0

Take = Callable[[Envelope], None]


class Post:
    """What the node `name` sends and takes.  Its `incarnation` is 16 hexadecimal digits.  `run` must run.

    A handler given to `take` is called with each message of that kind from other nodes, once, in the order in which
    its sender sent what is on one channel.  It must not block.
    """

    def __init__(
        self,
        url: str,
        channels: Channels,
        name: str,
        incarnation: str,
        limits: BusLimits,
        *,
        peers: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.name, self.channels = name, channels
        self.bus = Bus(url, channels, name, limits, received=self._received, peers=peers)
        self.origin = bytes.fromhex(incarnation)
        self.lag = Histogram()
        """From one node's sending to another's taking; by the clocks of two hosts, if there are two."""
        self.bad = self.repeated = 0
        """Messages that could not be read, and those that we had already."""
        self._number = 0
        self._handlers: dict[type[Any], Take] = {}
        self._latest: dict[tuple[int, bytes], int] = {}
        self._double: dict[tuple[bytes, int], None] = {}
        self._is_sharded = len(channels.partitions) > 1
        self._complained_at = float("-inf")

    def take(self, kind: type[Any], handler: Take) -> None:
        """Let `handler` have messages of that kind: Emit, Ask or Answer."""
        self._handlers[kind] = handler

    async def run(self) -> None:
        """Send and take, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.bus.run())
            await self.bus.subscribe(self.channels.node(self.name))

    def send(self, channel: Channel, content: Content) -> Fate:
        """Send to whoever listens there.  Raises TypeError for what cannot travel."""
        return self.bus.publish(channel, self._encoded(content))

    def send_all(
        self, channels: Iterable[Channel], content: Content, counted: Callable[[int, int], None] | None = None
    ) -> Fate:
        """Send one message on several channels: who listens on more of them takes it once.  Return the worst fate.

        `counted` gets, for each channel, its place among them and how many have the message.
        """
        payload = self._encoded(content)
        fates = {
            self.bus.publish(channel, payload, None if counted is None else partial(counted, place))
            for place, channel in enumerate(channels)
        }
        return next((fate for fate in (Fate.DROPPED, Fate.WAITING) if fate in fates), Fate.SENT)

    def _encoded(self, content: Content) -> bytes:
        payload = encode(self.origin, self._number, int(time() * 1000), content)
        self._number += 1
        return payload

    def _received(self, partition: int, payload: bytes) -> None:
        if is_from(payload, self.origin):
            return
        try:
            envelope = decode(payload)
        except BadWire as exc:
            self._complain(exc)
            return
        if self._is_known(partition, envelope):
            self.repeated += 1
            return
        self.lag.add(time() * 1000 - envelope.sent_ms)
        handler = self._handlers.get(envelope.content.__class__)
        if handler is None:
            return
        try:
            handler(envelope)
        except Exception:
            # One message that cannot be dealt with must not cost the connection, and so all others.
            log.exception("message of another node failed", extra={"kind": type(envelope.content).__name__})

    def _is_known(self, partition: int, envelope: Envelope) -> bool:
        """Numbers of one origin only grow on one partition: whatever is not larger has been here, sent again."""
        key, latest = (partition, envelope.origin), self._latest
        if envelope.number <= latest.get(key, -1):
            return True
        if len(latest) >= MOST_ORIGINS and key not in latest:
            del latest[next(iter(latest))]
        latest[key] = envelope.number
        content = envelope.content
        if self._is_sharded and content.__class__ is Emit and content.rooms is not None and len(content.rooms) > 1:
            return self._is_double(envelope.origin, envelope.number)
        return False

    def _is_double(self, origin: bytes, number: int) -> bool:
        """A message to rooms on several partitions comes on each."""
        if (origin, number) in self._double:
            return True
        self._double[origin, number] = None
        if len(self._double) > MOST_DOUBLE:
            del self._double[next(iter(self._double))]
        return False

    def _complain(self, exc: BadWire) -> None:
        self.bad += 1
        now = asyncio.get_running_loop().time()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.warning("bus message dropped: cannot be read", extra={"reason": str(exc), "dropped": self.bad})
