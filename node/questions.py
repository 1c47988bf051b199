"""Questions that nodes ask each other, and their answers, over the post."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from cluster.channels import Channel
from node.fate import Fate
from node.post import Post
from node.wire import Answer, Ask, Envelope

log = logging.getLogger(__name__)

MOST_PENDING = 100_000
"""Questions that wait for answers; the oldest are given up.  Who asks has a time limit of its own."""


class Reply(Protocol):
    """Answers one question; it may be called later, more than once, or never."""

    def __call__(self, value: Any = None, error: str = "") -> None: ...


Serve = Callable[[tuple[Any, ...], Reply], None]


class Questions:
    """What this node asks others, and what it answers."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._operations: dict[str, Serve] = {}
        self._pending: dict[int, Callable[[Answer], None]] = {}
        self._number = 0
        post.take(Ask, self._asked)
        post.take(Answer, self._answered)

    def serve(self, operation: str, handler: Serve) -> None:
        """Let `handler` deal with questions for that operation: arguments as they come, and how to reply.

        It must not block, and must expect arguments of any shape: a newer node may have sent them.
        """
        self._operations[operation] = handler

    def ask(
        self,
        channels: Iterable[Channel],
        operation: str,
        arguments: tuple[Any, ...],
        answered: Callable[[Answer], None] | None = None,
        counted: Callable[[int, int], None] | None = None,
    ) -> tuple[int, Fate]:
        """Ask whoever listens there; `answered` gets each answer until its number is forgotten.

        `counted` is as in Post.send_all.  Raises TypeError for arguments that cannot travel.
        """
        if answered is None:
            return 0, self._post.send_all(channels, Ask(operation, arguments))
        self._number += 1
        fate = self._post.send_all(channels, Ask(operation, arguments, self._number, self._post.name), counted)
        self._pending[self._number] = answered
        if len(self._pending) > MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        return self._number, fate

    def ask_again(self, channel: Channel, operation: str, arguments: tuple[Any, ...], number: int) -> None:
        """Ask the question with that number once more: of somebody who may not have had it."""
        self._post.send(channel, Ask(operation, arguments, number, self._post.name))

    @property
    def pending(self) -> int:
        """Questions that wait for answers."""
        return len(self._pending)

    def forget(self, number: int) -> None:
        """Nobody waits for answers to that question any more."""
        self._pending.pop(number, None)

    def _asked(self, envelope: Envelope) -> None:
        ask = envelope.content
        assert isinstance(ask, Ask)
        post, channel = self._post, self._post.channels.node(ask.reply_to)

        def reply(value: Any = None, error: str = "") -> None:
            if ask.number:
                post.send(channel, Answer(ask.number, post.name, value, error))

        handler = self._operations.get(ask.operation)
        if handler is None:
            log.debug("question not understood", extra={"operation": ask.operation[:60]})
            reply(error="unknown operation")
            return
        try:
            handler(ask.arguments, reply)
        except (TypeError, ValueError) as exc:
            # Arguments that another version of us, or somebody else, made up.
            log.warning("question not understood", extra={"operation": ask.operation, "reason": str(exc)})
            reply(error="bad arguments")

    def _answered(self, envelope: Envelope) -> None:
        answer = envelope.content
        assert isinstance(answer, Answer)
        answered = self._pending.get(answer.number)
        if answered is not None:
            answered(answer)
