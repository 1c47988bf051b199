"""The hearing half of one server of the bus: who subscribes knows when the subscription holds.

A new connection subscribes to everything that is wanted, and at last to its ear (cluster/channels.py): when that is
confirmed it misses nothing from then on, and others may send what waited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import hiredis

from cluster.backoff import full_jitter
from node.redis_socket import RedisLost, RedisSocket, command

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
QUIET_S = 2.0
"""A connection on which nothing was heard for so long is asked for a sign of life, and given up after as long again."""

AT_ONCE = 500
"""Channels in one command."""

PING = command("PING")
PONGS = ([b"pong", b""], b"PONG")
"""The answer to it, in RESP2: to a subscriber, and to who is none yet."""


class _Wish:
    """One channel: whether it is wanted, what was asked of the server, and what it has not confirmed."""

    __slots__ = ("asked", "outstanding", "waiters", "wanted")

    def __init__(self) -> None:
        self.wanted = self.asked = False
        self.outstanding = 0
        self.waiters: list[asyncio.Future[bool]] | None = None

    @property
    def holds(self) -> bool:
        return self.wanted and self.asked and not self.outstanding


class Subscriber:
    """Hears the channels that were asked for, and gives `received` the channel and the payload of each message.

    `ear` is subscribed to last; `changed` is called when the subscriber begins or ceases to be whole.  `prefix` is b"S"
    on a Redis Cluster (SSUBSCRIBE).  `run` must run.
    """

    def __init__(
        self,
        ear: bytes,
        dial: Callable[[], Awaitable[RedisSocket]],
        received: Callable[[bytes, bytes], None],
        changed: Callable[[], None],
        prefix: bytes = b"",
    ) -> None:
        self._ear = ear
        self._changed = changed
        self._dial = dial
        self._received = received
        self._subscribe, self._unsubscribe = prefix + b"SUBSCRIBE", prefix + b"UNSUBSCRIBE"
        self._message = prefix.lower() + b"message"
        self._confirmations = {self._subscribe.lower(), self._unsubscribe.lower()}
        self._loop = asyncio.get_running_loop()
        self._wishes: dict[bytes, _Wish] = {}
        self._dirty: set[bytes] = set()
        self._link: RedisSocket | None = None
        self._heard_at = 0.0
        self.is_whole = False
        """Connected, and subscribed to all that is wanted."""
        self.received = self.received_bytes = self.connects = 0
        self.reason = "not connected yet"

    @property
    def server(self) -> RedisSocket | None:
        return self._link

    @property
    def subscriptions(self) -> int:
        return sum(wish.wanted for wish in self._wishes.values())

    def holds(self, channel: bytes) -> bool:
        """Return whether the subscription to `channel` holds."""
        wish = self._wishes.get(channel)
        return wish is not None and wish.holds

    def want(self, channel: bytes) -> None:
        """Subscribe to `channel`, and do not wait for it."""
        self._wish(channel)

    async def subscribe(self, channel: bytes) -> bool:
        """Return when the subscription holds: True; or False if Redis is away: then it will hold when Redis is back."""
        wish = self._wish(channel)
        if wish.holds or self._link is None:
            return wish.holds
        waiter: asyncio.Future[bool] = self._loop.create_future()
        if wish.waiters is None:
            wish.waiters = []
        wish.waiters.append(waiter)
        return await waiter

    async def settled(self) -> bool:
        """Return True when all subscriptions hold that are wanted now, or False if Redis is away."""
        missing = [channel for channel, wish in self._wishes.items() if wish.wanted and not wish.holds]
        return all(await asyncio.gather(*map(self.subscribe, missing)))

    def _wish(self, channel: bytes) -> _Wish:
        wish = self._wishes.get(channel)
        if wish is None:
            wish = self._wishes[channel] = _Wish()
        wish.wanted = True
        if not wish.holds:
            self._mark(channel)
        return wish

    def unsubscribe(self, channel: bytes) -> None:
        """Hear `channel` no more; a few messages may still come."""
        wish = self._wishes.get(channel)
        if wish is not None:
            wish.wanted = False
            self._mark(channel)

    def restart(self, reason: str) -> None:
        """Make the connection anew."""
        if self._link is not None:
            self._link.abort(reason)

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        while True:
            try:
                link = await self._dial()
                if await self._serve(link):
                    delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
            except RedisLost as exc:
                self.reason = str(exc)
            await asyncio.sleep(next(delays))

    async def _serve(self, link: RedisSocket) -> bool:
        """Return whether it was good for something."""
        try:
            self._open(link)
            await self._watch(link)
        finally:
            was_whole = self.is_whole
            self._close(link)
        self.reason = link.lost.result()
        if was_whole:
            self._changed()
        return was_whole

    def _open(self, link: RedisSocket) -> None:
        link.heard, link.batch_ended = self._heard, self._batch_ended
        self._link = link
        self.connects += 1
        self._dirty.clear()
        self._send([channel for channel, wish in self._wishes.items() if wish.wanted])
        link.write(command(self._subscribe, self._ear))

    def _close(self, link: RedisSocket) -> None:
        self._link, self.is_whole = None, False
        link.heard = _ignore
        link.abort("given up")
        self._dirty.clear()
        for channel, wish in tuple(self._wishes.items()):
            wish.asked, wish.outstanding = False, 0
            self._settle(wish, held=False)
            if not wish.wanted:
                del self._wishes[channel]

    async def _watch(self, link: RedisSocket) -> None:
        self._heard_at = asked_at = self._loop.time()
        while not link.lost.done():
            await asyncio.wait((link.lost,), timeout=QUIET_S / 2)
            now = self._loop.time()
            if now - self._heard_at < QUIET_S:
                continue
            if asked_at <= self._heard_at:
                asked_at = now
                link.write(PING)
            elif now - asked_at >= QUIET_S:
                # A connection to a host that vanished looks exactly like a quiet one.
                link.abort(f"no sign of life from {link.server} for {now - self._heard_at:.1f} s")

    def _mark(self, channel: bytes) -> None:
        if self._link is not None:
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.add(channel)
        elif not self._wishes[channel].wanted:
            del self._wishes[channel]

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        if self._link is None:
            return
        wishes = {channel: wish for channel in dirty if (wish := self._wishes.get(channel)) is not None}
        self._send([channel for channel, wish in wishes.items() if wish.wanted and not wish.asked])
        self._send([channel for channel, wish in wishes.items() if not wish.wanted and wish.asked], wanted=False)
        for channel, wish in wishes.items():
            self._look(channel, wish)

    def _send(self, channels: list[bytes], *, wanted: bool = True) -> None:
        assert self._link is not None
        for channel in channels:
            wish = self._wishes[channel]
            wish.asked = wanted
            wish.outstanding += 1
        verb = self._subscribe if wanted else self._unsubscribe
        commands = [command(verb, *some) for some in _chunks(channels)]
        if commands:
            self._link.write(b"".join(commands))

    def _heard(self, reply: Any) -> None:
        if reply.__class__ is not list or len(reply) != 3:
            self._unexpected(reply)
            return
        kind, channel, payload = reply
        if kind == self._message and payload.__class__ is bytes:
            self.received += 1
            self.received_bytes += len(payload)
            self._received(channel, payload)
        elif kind.__class__ is channel.__class__ is bytes and kind in self._confirmations:
            self._confirmed(kind, channel)
        else:
            self._unexpected(reply)

    def _confirmed(self, kind: bytes, channel: bytes) -> None:
        if channel == self._ear:
            if kind == self._subscribe.lower():
                self.is_whole = True
                self._changed()
            else:
                self.restart("the server gave the partition away")
            return
        wish = self._wishes.get(channel)
        if wish is None:
            return
        if not wish.outstanding:
            # Nobody asked: a slot of a Redis Cluster went to another server.
            self.restart(f"the server ended the subscription to {channel!r}")
            return
        wish.outstanding -= 1
        self._look(channel, wish)

    def _look(self, channel: bytes, wish: _Wish) -> None:
        if wish.outstanding:
            return
        if wish.wanted and wish.asked:
            self._settle(wish, held=True)
        elif not wish.wanted and not wish.asked:
            self._settle(wish, held=False)
            del self._wishes[channel]

    def _settle(self, wish: _Wish, *, held: bool) -> None:
        waiters, wish.waiters = wish.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(held)

    def _unexpected(self, reply: Any) -> None:
        # An error means that the server cannot (MOVED) or may not serve us.
        if isinstance(reply, hiredis.ReplyError):
            self.restart(str(reply))
        elif reply not in PONGS:
            self.restart("the server says what no Redis says to a subscriber")

    def _batch_ended(self) -> None:
        self._heard_at = self._loop.time()


def _chunks(channels: list[bytes]) -> Iterable[list[bytes]]:
    return (channels[start : start + AT_ONCE] for start in range(0, len(channels), AT_ONCE))


def _ignore(_: Any) -> None:
    pass
