"""Clients of other nodes: what is asked of their node, and what others ask of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.clients import MOST_PENDING_ACKS, ClientManager
from node.codec import BadPacket, Packet, Partial, arguments_of
from node.fate import Fate
from node.message import Message
from node.questions import Reply
from node.rooms import NotConnected, Rooms, rooms_in
from node.wire import Answer, as_lists

if TYPE_CHECKING:
    from node.fanout import Fanout

log = logging.getLogger(__name__)

ANSWER_S = 2.0
"""How long to wait until another node has done what it was asked for."""


class _Once:
    """Calls a callback for the first acknowledgement alone, from wherever that comes."""

    def __init__(self, callback: Callable[..., Any]) -> None:
        self._callback: Callable[..., Any] | None = callback

    async def call(self, *values: Any) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            result = callback(*values)
            if hasattr(result, "__await__"):
                await result


class Elsewhere:
    """The questions about single clients, in the name of `manager`."""

    def __init__(self, manager: Fanout) -> None:
        self._manager = manager
        self._questions = manager.questions
        self._numbers: dict[Callable[..., Any], int] = {}
        for operation, handler in {
            "enter": self._enter,
            "leave": self._leave,
            "close": self._close,
            "disconnect": self._disconnect,
            "emit": self._emit,
        }.items():
            self._questions.serve(operation, handler)

    # Asking

    async def ask(self, sid: str, operation: str, arguments: tuple[Any, ...]) -> None:
        """Ask the node of `sid`, and wait until it has done it; not if Redis is away, nor for long."""
        name = self._manager.node_of(sid)
        assert name is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(_: Answer) -> None:
            if not done.done():
                done.set_result(None)

        channel = self._manager.post.channels.node(name)
        number, fate = self._questions.ask((channel,), operation, arguments, answered)
        try:
            if fate is Fate.SENT:
                async with asyncio.timeout(ANSWER_S):
                    await done
        except TimeoutError:
            log.info("another node did not answer", extra={"node": name, "operation": operation})
        finally:
            self._questions.forget(number)

    async def emit_asking(
        self,
        event: str,
        data: Any,
        space: str,
        target: Rooms | None,
        skip: tuple[str, ...],
        callback: Callable[..., Any],
    ) -> Fate:
        """Emit an event that each client acknowledges, wherever it is; the first acknowledgement counts.

        Raises ValueError without a room, as python-socketio does.
        """
        if target is None:
            raise ValueError("Cannot use callback without a room set.")
        manager = self._manager
        asked = _Once(callback)

        def answered(answer: Answer) -> None:
            if not answer.error:
                self._questions.forget(answer.number)
                manager.start(asked.call(*as_lists(answer.value or ())))

        rooms = tuple(rooms_in(target))
        arguments = (space, rooms, (event, *arguments_of(data)), skip)
        number, fate = self._questions.ask(manager.channels_to(space, target), "emit", arguments, answered)
        self._numbers[callback] = number
        if len(self._numbers) > MOST_PENDING_ACKS:
            del self._numbers[next(iter(self._numbers))]
        await ClientManager.emit(manager, event, data, space, target, skip, asked.call)
        return fate

    def give_up(self, callback: Any) -> None:
        """Nobody waits for what would call `callback`."""
        number = self._numbers.pop(callback, None)
        if number is not None:
            self._questions.forget(number)

    def content_of(self, message: Message) -> list[Any]:
        """Return the event, with its arguments, that another node's message holds."""
        codec = self._manager.server.codec
        parts: list[str | bytes] = [] if message.text is None else [message.text.decode()]
        parts.extend(message.binaries)
        try:
            packet = codec.decode(parts[0])
            for attachment in parts[1:]:
                packet = (packet.add(attachment) or packet) if isinstance(packet, Partial) else packet
        except BadPacket as exc:
            log.debug("not shown to an observer", extra={"reason": str(exc)})
            return [""]
        return packet.data if isinstance(packet, Packet) else [""]

    # Asked

    def _enter(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        space, sid, room = arguments
        self._manager.start(self._doing(reply, self._manager.enter_room, sid, space, room))

    def _leave(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        space, sid, room = arguments
        self._manager.start(self._doing(reply, self._manager.leave_room, sid, space, room))

    def _disconnect(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        space, sid = arguments
        self._manager.start(self._doing(reply, self._manager.server.disconnect, sid, space, True))

    def _close(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        space, room = arguments
        self._manager.basic_close_room(room, space)
        reply()

    def _emit(self, arguments: tuple[Any, ...], reply: Reply) -> None:
        space, rooms, (event, *values), skip = arguments
        clients = self._manager.directory.recipients(space, rooms, skip)
        self._manager.deliver(clients, event, tuple(as_lists(tuple(values))), lambda *answer: reply(answer))

    async def _doing(self, reply: Reply, work: Callable[..., Any], sid: str, *arguments: Any) -> None:
        if self._manager.node_of(sid) != self._manager.post.name:
            # It would be asked on and on.
            reply(error="not a client of this node")
            return
        try:
            await work(sid, *arguments)
        except (NotConnected, ValueError) as exc:
            reply(error=str(exc))
        else:
            reply()
