"""The sending half of one server of the bus: all that is published in one turn of the event loop goes in one write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import hiredis

from cluster.backoff import full_jitter
from node.fate import Fate
from node.outbox import Outbox
from node.redis_socket import ANSWER_S, RedisLost, RedisSocket

log = logging.getLogger(__name__)

WRITE_BYTES = 262144
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
WATCH_S = 0.5
SLOW_ANSWER_S = 0.2
REST_S = 0.02

ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "UNBLOCKED")
"""Errors that say that this server cannot now, not that it never will."""


class Publisher:
    """Publishes with `verb` through connections that `dial` makes; `gate` holds a new one until others can hear.

    `changed` is called when a connection is there, and when it is lost.

    `run` must run; before, and while Redis is away, messages wait in `outbox`.
    """

    def __init__(
        self,
        outbox: Outbox,
        dial: Callable[[], Awaitable[RedisSocket]],
        gate: Callable[[RedisSocket], Awaitable[None]],
        changed: Callable[[], None],
        verb: bytes = b"PUBLISH",
    ) -> None:
        self.outbox = outbox
        self._changed = changed
        self._dial, self._gate = dial, gate
        self._head = b"*3\r\n$%d\r\n%b\r\n$%%d\r\n%%b\r\n$%%d\r\n%%b\r\n" % (len(verb), verb)
        self._loop = asyncio.get_running_loop()
        self._link: RedisSocket | None = None
        self._is_due = False
        self._heard_at = 0.0
        self._confirmed: list[asyncio.Future[None]] = []
        self._complaint = ""
        self._is_full = False
        self._awaited = 0
        """Messages whose count somebody waits for."""
        self.published = self.published_bytes = self.refused = self.connects = self.resent = 0
        self.reason = "not connected yet"
        """Why there is no connection."""

    @property
    def is_up(self) -> bool:
        return self._link is not None

    @property
    def is_answering(self) -> bool:
        """Connected, and not waiting for an answer that takes strangely long."""
        return self._link is not None and (
            not self.outbox.in_flight or self._loop.time() - self._heard_at < SLOW_ANSWER_S
        )

    @property
    def server(self) -> RedisSocket | None:
        """The connection that is used now."""
        return self._link

    def publish(self, channel: bytes, payload: bytes, counted: Callable[[int], None] | None = None) -> Fate:
        """Send `payload` to whoever subscribed to `channel`, after all that was published before.

        `counted` gets how many that were, each time that Redis confirms it: it may have to be sent again.
        """
        text = self._head % (len(channel), channel, len(payload), payload)
        if not self.outbox.add(text, self._loop.time(), counted):
            self._tell_full()
            return Fate.DROPPED
        self.published += 1
        self.published_bytes += len(payload)
        if counted is not None:
            self._awaited += 1
            if self._link is not None:
                self._link.wake()
        if self._link is None:
            return Fate.WAITING
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)
        return Fate.SENT

    async def room(self, bytes_: int) -> None:
        """Wait until not more than so many bytes are on their way, or Redis is away: then the outbox is what bounds."""
        while self._link is not None and self.outbox.size > bytes_:
            waiter = self._loop.create_future()
            self._confirmed.append(waiter)
            self._link.wake()
            await waiter

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
        try:
            while True:
                try:
                    link = await self._dial()
                    delays = await self._serve(link, delays)
                except RedisLost as exc:
                    self.reason = str(exc)
                self._forget_old()
                await asyncio.sleep(next(delays))
        finally:
            self._wake()

    async def _serve(self, link: RedisSocket, delays: Iterator[float]) -> Iterator[float]:
        try:
            await self._gate(link)
            self._open(link)
            delays = full_jitter(RETRY_FIRST_S, RETRY_MOST_S)
            await self._watch(link)
        finally:
            self._link = None
            link.abort("given up")
            link.heard, link.batch_ended = _ignore, _wake_nobody
            self.resent += self.outbox.rewind()
            self._wake()
        self._changed()
        self.reason = link.lost.result()
        return delays

    def _open(self, link: RedisSocket) -> None:
        link.heard, link.batch_ended, link.on_writable = self._heard, self._batch_ended, self._flush
        self.connects += 1
        self._is_full = False
        self._forget_old()
        self._link = link
        self._heard_at = self._loop.time()
        self._flush()
        self._changed()

    async def _watch(self, link: RedisSocket) -> None:
        while not link.lost.done():
            await asyncio.wait((link.lost,), timeout=WATCH_S)
            if not self.outbox.in_flight:
                self._heard_at = self._loop.time()
            elif self._loop.time() - self._heard_at > ANSWER_S:
                link.abort(f"no answer from {link.server} for {ANSWER_S:g} s")

    def _tell_full(self) -> None:
        """Once for each time that Redis is away, or does not follow."""
        if not self._is_full:
            self._is_full = True
            log.warning("messages dropped: the outbox is full", extra={"outbox_bytes": self.outbox.most_bytes})

    def _forget_old(self) -> None:
        dropped = self.outbox.expire(self._loop.time())
        if dropped:
            log.warning(
                "messages dropped: Redis was away for too long",
                extra={"dropped": dropped, "outbox_age_s": self.outbox.most_age_s},
            )

    def _flush(self) -> None:
        self._is_due = False
        link, outbox = self._link, self.outbox
        if link is None:
            return
        if not outbox.in_flight:
            self._heard_at = self._loop.time()
        while outbox.is_waiting and link.is_writable:
            link.write(outbox.take(WRITE_BYTES))

    def _heard(self, reply: Any) -> None:
        # An integer: how many have got it.  Those who listen at a replica would be missing, and we do not.
        if reply.__class__ is int:
            entry = self.outbox.confirmed(self._heard_at)
            if entry.counted is not None:
                self._awaited -= 1
                entry.counted(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._failed(str(reply))

    def _failed(self, error: str) -> None:
        link = self._link
        if link is not None and error.startswith(ELSEWHERE):
            # What comes behind it on this connection says nothing any more.
            link.heard = _ignore
            link.abort(error)
        elif link is not None:
            # It would be refused again: nobody gets it, and those behind it go on.
            self.outbox.refused()
            self.refused += 1
            if error != self._complaint:
                self._complaint = error
                log.error("messages dropped: Redis refuses them", extra={"reason": error})

    def _batch_ended(self) -> None:
        self._heard_at = self._loop.time()
        if not self.outbox.in_flight:
            self._awaited = 0
        if self._confirmed:
            self._wake()
        elif self._link is not None and self._awaited <= 0:
            # Nobody waits for confirmations: reading each by itself would cost more than publishing.
            self._link.rest(REST_S)

    def _wake(self) -> None:
        waiters, self._confirmed = self._confirmed, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _ignore(_: Any) -> None:
    pass


def _wake_nobody() -> None:
    pass
