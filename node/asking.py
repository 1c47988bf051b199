"""Asks other nodes to do their share of something, and waits for their answers: no longer than it is of use.

The question goes to whoever listens on a room's channel, a client's node, or all.  Redis tells how many that were
(node/survey.py), so that usually nobody else hears of it, and who is gone is not waited for.  When the answers do not
add up, every node that hears the bus is asked by name: each answers, if only that it has nobody there; who ended has no
connection to Redis any more, and is struck off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from cluster.channels import Channel
from node.bus import Health
from node.fate import Fate
from node.pieces import HEARD, Deed
from node.post import Post
from node.questions import Questions, Reply
from node.redis_socket import RedisLost
from node.survey import Read, Survey
from node.wire import Answer

log = logging.getLogger(__name__)

OPERATION = "share"
LOOK_S = 0.15
"""Answers that take longer are looked after."""

MOST_KNOWN = 4096


class Others(Protocol):
    """The other nodes (node/neighbours.py)."""

    def expected(self) -> Collection[str]: ...

    async def refresh(self) -> bool: ...


class Inquiry:
    """One question that was sent; `answers` waits for what comes."""

    def __init__(
        self, asker: Asker, channels: Sequence[Channel], arguments: tuple[Any, ...], read: Read, *, lasting: bool
    ) -> None:
        self._asker, self._arguments = asker, arguments
        own = [place for place, channel in enumerate(channels) if asker.post.bus.holds(channel)]
        self._survey = Survey(len(channels), own, read)
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._were_expected: set[str] = set()
        self._number, self.fate = 0, Fate.DROPPED
        if lasting or asker.is_heard:
            ask = asker.questions.ask
            self._number, self.fate = ask(channels, OPERATION, arguments, self._answered, self._counted)

    def forget(self) -> None:
        """Nobody waits for answers any more."""
        self._asker.questions.forget(self._number)

    async def answers(self, timeout_s: float | None) -> Survey:
        """Return what is known when everybody has answered or is gone, or the time is over; once."""
        try:
            async with asyncio.timeout(timeout_s):
                if self.fate is Fate.SENT:
                    await self._wait()
                else:
                    self._survey.call_roll(self._asker.others.expected())
        except TimeoutError:
            if not self._survey.is_counted:
                self._survey.call_roll(self._asker.others.expected())
        return self._survey

    async def _wait(self) -> None:
        while not self._complete.done():
            await asyncio.wait((self._complete,), timeout=LOOK_S)
            if not self._complete.done():
                try:
                    await self._look()
                except RedisLost as exc:
                    log.debug("nobody knows who is there", extra={"reason": str(exc)})
                self._check()

    async def _look(self) -> None:
        survey, asker = self._survey, self._asker
        if not survey.is_counted:
            await asker.others.refresh()
            for name in survey.call_roll(await asker.listening(asker.others.expected())):
                asker.questions.ask_again(asker.post.channels.node(name), OPERATION, self._arguments, self._number)
        missing = set(survey.missing)
        there = await asker.listening(missing)
        # One that is newer than our picture of the registry has not been given up by it.
        given_up = self._were_expected.difference(asker.others.expected())
        self._were_expected.update(asker.others.expected())
        survey.strike((missing - there) | given_up)

    def _answered(self, answer: Answer) -> None:
        self._survey.answered(answer.name, answer.value, answer.error)
        self._check()

    def _counted(self, place: int, listeners: int) -> None:
        self._survey.counted(place, listeners)
        self._check()

    def _check(self) -> None:
        if self._survey.is_complete and not self._complete.done():
            self._complete.set_result(None)


class Asker:
    """Asks over `post`; `others` tells who may be there."""

    def __init__(self, post: Post, questions: Questions, others: Others) -> None:
        self.post, self.questions, self.others = post, questions, others
        self._number = 0

    @property
    def is_heard(self) -> bool:
        """Whether what is asked now goes out now, and answers would come."""
        return self.post.bus.health is Health.OK

    def ask(
        self, channels: Sequence[Channel], deed: str, words: tuple[Any, ...], read: Read, *, lasting: bool
    ) -> Inquiry:
        """Ask whoever listens on one of `channels`; who does must `forget` it in the end.

        While Redis is away only what is `lasting` waits to be done when it is back.  Raises TypeError for words that
        cannot travel.
        """
        return Inquiry(self, channels, self._arguments(channels, deed, words), read, lasting=lasting)

    def tell(self, channels: Sequence[Channel], deed: str, words: tuple[Any, ...]) -> Fate:
        """As `ask`, and want no answers."""
        return self.questions.ask(channels, OPERATION, self._arguments(channels, deed, words))[1]

    def _arguments(self, channels: Sequence[Channel], deed: str, words: tuple[Any, ...]) -> tuple[Any, ...]:
        self._number += 1
        return f"{self.post.origin.hex()}:{self._number}", tuple(tuple(each) for each in channels), deed, words

    async def listening(self, names: Collection[str]) -> set[str]:
        """Return which of these, but us, hear the bus now.  Raises RedisLost."""
        return await self.post.bus.listening([name for name in names if name != self.post.name])


class Answering:
    """Answers what other nodes ask: runs `deeds`, which yield the pieces of their answer, by `start`."""

    def __init__(self, post: Post, questions: Questions, deeds: dict[str, Deed], start: Callable[[Any], None]) -> None:
        self._post, self._deeds, self._start = post, deeds, start
        self._known: dict[str, bool] = {}
        """Questions that came: whether they have been answered to the end."""
        questions.serve(OPERATION, self._asked)

    def _asked(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        id_, raw_channels, name, words = arguments
        channels = [Channel(partition, raw) for partition, raw in raw_channels]
        if not isinstance(id_, str) or not isinstance(words, tuple):
            raise TypeError("no question")
        holds = self._post.bus.holds
        partitions = self._post.channels.partitions
        heard = tuple(place for place, each in enumerate(channels) if each.partition in partitions and holds(each))
        if id_ in self._known:
            # Asked again because our answer was not there, or on its way.
            if self._known[id_]:
                reply(error="it has answered before")
            else:
                reply((True, heard))
            return
        if name not in self._deeds:
            raise ValueError(f"no deed {str(name)[:60]!r}")
        self._known[id_] = False
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._start(self._answer(id_, self._deeds[name], words, heard, reply))

    async def _answer(self, id_: str, deed: Deed, words: tuple[Any, ...], heard: tuple[int, ...], reply: Reply) -> None:
        said: tuple[Any, ...] = ()
        try:
            async for piece in deed(*words):
                if said or piece is HEARD:
                    reply((True, heard, *said))
                    await self._post.bus.room()
                said = () if piece is HEARD else (piece,)
            reply((False, heard, *said))
        except (TypeError, ValueError) as exc:
            log.warning("question not understood", extra={"reason": str(exc)})
            reply(error=f"it could not: {exc}"[:200])
        except Exception as exc:
            log.exception("what another node asked for failed")
            reply(error=f"it could not: {type(exc).__name__}")
        finally:
            if id_ in self._known:
                self._known[id_] = True
