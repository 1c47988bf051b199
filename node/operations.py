"""Operations on clients of all nodes, for a server or an emitter: what is asked, of whom, and what the answers make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from cluster.channels import Channel
from node.answers import Answers
from node.asking import Asker
from node.codec import MAIN, arguments_of
from node.fate import Fate
from node.outcome import Outcome, Partial, Replies, Sockets
from node.pieces import HEARD, Deed, Target, answers_in, count_in, sockets_in
from node.redis_socket import RedisLost
from node.rooms import Rooms, rooms_in, target_of
from node.survey import Survey
from node.wire import as_lists

GRACE_S = 0.5
"""How long nodes may take, beyond the time that clients have, to tell what these have answered."""

Spread = Callable[[str, Rooms | None], Iterable[Channel]]
"""Where other nodes listen who may have such clients."""


def target(
    to: Rooms | None,
    room: Rooms | None,
    namespace: str | None,
    skip_sid: str | Iterable[str] | None = None,
    except_rooms: Rooms | None = None,
) -> Target:
    """Return whom the arguments mean, which are as those of `emit`."""
    rooms = target_of(to, room)
    return Target(
        namespace or MAIN,
        None if rooms is None else tuple(rooms_in(rooms)),
        (skip_sid,) if isinstance(skip_sid, str) else tuple(skip_sid or ()),
        tuple(rooms_in(except_rooms)),
    )


class Operations:
    """`deeds` are this process's own share, and `asker` reaches the others; either may be missing."""

    def __init__(self, deeds: dict[str, Deed], asker: Asker | None, spread: Spread) -> None:
        self._deeds, self._asker, self._spread = deeds, asker, spread

    async def fetch(self, whom: Target, timeout_s: float) -> Sockets:
        own, survey = await self._do("fetch", whom, (), sockets_in, timeout_s, lasting=False)
        found = [socket for said in (own, *survey.pieces.values()) for piece in said for socket in piece]
        return Sockets(found, Partial(survey.missing, survey.failed))

    async def change(self, deed: str, whom: Target, words: tuple[Any, ...], timeout_s: float) -> Outcome:
        """Do something to each: "join" or "leave" these rooms, "disconnect"."""
        own, survey = await self._do(deed, whom, words, count_in, timeout_s, lasting=True)
        count = sum(own) + sum(sum(said) for said in survey.pieces.values())
        return Outcome(survey.missing, survey.failed, count)

    async def ask_clients(self, event: str, data: Any, whom: Target, timeout_s: float | None) -> Answers:
        """Emit an event, and wait for the acknowledgement of each client."""
        words = (event, tuple(arguments_of(data)), timeout_s)
        grace = None if timeout_s is None else timeout_s + GRACE_S
        own, survey = await self._do("ask", whom, words, answers_in, grace, lasting=False)
        given: dict[str, Any] = {}
        missing: list[str] = []
        for said in (own, *survey.pieces.values()):
            for sid, *answer in (each for piece in said for each in piece):
                if answer:
                    given[sid] = answer[0]
                else:
                    missing.append(sid)
        return Answers(given, tuple(missing), tuple(sorted({*survey.missing, *survey.failed})))

    async def _do(
        self,
        deed: str,
        whom: Target,
        words: tuple[Any, ...],
        read: Callable[[Any], Any],
        timeout_s: float | None,
        *,
        lasting: bool,
    ) -> tuple[list[Any], Survey]:
        """Return what is said here, and elsewhere.  What is not `lasting` is of no use when Redis is back later."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        channels = tuple(self._spread(whom.namespace, whom.rooms))
        inquiry = None
        if self._asker is not None and channels:
            inquiry = self._asker.ask(channels, deed, (tuple(whom), *words), read, lasting=lasting)
        try:
            own = [read(piece) async for piece in self._own(deed, whom, words)]
            if inquiry is None:
                return own, Survey(0, (), read)
            return own, await inquiry.answers(None if until is None else until - loop.time())
        finally:
            if inquiry is not None:
                inquiry.forget()

    async def _own(self, deed: str, whom: Target, words: tuple[Any, ...]) -> AsyncIterator[Any]:
        if deed in self._deeds:
            async for piece in self._deeds[deed](tuple(whom), *words):
                if piece is not HEARD:
                    yield piece

    def tell_servers(self, event: str, arguments: tuple[Any, ...]) -> Fate:
        """Let the handlers of the other nodes run."""
        if self._asker is None:
            return Fate.LOCAL
        return self._asker.tell((self._asker.post.channels.servers,), "tell", (event, arguments))

    async def call_servers(self, event: str, arguments: tuple[Any, ...], timeout_s: float) -> Replies:
        """As `tell_servers`, and return what they return."""
        if self._asker is None:
            return Replies()
        channels = (self._asker.post.channels.servers,)
        inquiry = self._asker.ask(channels, "tell", (event, arguments), as_lists, lasting=False)
        try:
            survey = await inquiry.answers(timeout_s)
        finally:
            inquiry.forget()
        given = {name: said[0] for name, said in survey.pieces.items() if said}
        return Replies(survey.missing, survey.failed, given)

    async def count_servers(self) -> int:
        """Return how many nodes hear the bus, this one included; as last known while Redis is away."""
        own = bool(self._deeds)
        if self._asker is None:
            return 1
        others = self._asker.others
        await others.refresh()
        try:
            return own + len(await self._asker.listening(others.expected()))
        except RedisLost:
            return own + len(others.expected())
