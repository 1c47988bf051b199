"""`Emitter`: talks to the clients of all nodes from a process that is none, a worker or a cron job.

It needs a Redis URL and the cluster's name, and no web server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from cluster.channels import Channel
from cluster.config import Config
from cluster.errors import UsageError
from cluster.keys import Keys
from cluster.redis_link import connection, without_password
from cluster.registry import Registry
from cluster.tag import shown_slot_of
from node.asking import Asker
from node.bus import BusLimits, channels_of
from node.codec import MAIN, Codec, JsonCodec, arguments_of
from node.everywhere import Everywhere
from node.fate import Fate
from node.neighbours import Neighbours
from node.operations import Operations, target
from node.post import Post
from node.questions import Questions
from node.rooms import Rooms, rooms_in, target_of
from node.wire import Emit

log = logging.getLogger(__name__)

UP_S = 2.0
"""How long to wait for Redis in the beginning; later, messages wait in the outbox."""

LEAVE_S = 5.0
"""How long what was emitted may take to leave in the end."""

LOOK_S = 30.0
"""Between two looks at who is there, only to know after an outage whom to wait for."""


class Emitter(Everywhere):
    """An asynchronous context manager on the cluster named `cluster`, with the Redis at the URL `redis`.

    `serializer` and `json` are those of the servers.  What was emitted has left when the block ends, if Redis is there.
    """

    def __init__(self, redis: str, cluster: str = "flotilla", *, serializer: Any = "default", json: Any = None) -> None:
        try:
            self._config = Config.model_validate({"redis": redis, "cluster": cluster})
        except ValidationError as exc:
            reasons = [f"{error['loc'][0]}: {error['msg'].removeprefix('Value error, ')}" for error in exc.errors()]
            raise UsageError(f"Emitter: {'; '.join(reasons)}") from None
        if "://" not in redis:
            raise UsageError(f"Emitter: redis: give the URL of the nodes' Redis, not {redis!r}")
        self._codec = _codec_for(serializer, json)
        self._stack = AsyncExitStack()
        self._post: Post | None = None
        self._asker: Asker | None = None

    async def __aenter__(self) -> Emitter:
        async with AsyncExitStack() as stack:
            post = await self._open(stack)
            self._stack = stack.pop_all()
        if not await post.bus.up(UP_S):
            log.warning("emitting later: no bus to the nodes", extra={"reason": post.bus.reason})
        return self

    async def _open(self, stack: AsyncExitStack) -> Post:
        config = self._config
        name, limits = f"emitter-{secrets.token_hex(8)}", config.bus
        link = await stack.enter_async_context(connection(config.redis))
        neighbours = Neighbours(Registry(link, Keys(config.cluster)), name, heartbeat_s=LOOK_S, lease_s=2 * LOOK_S)
        try:
            post = self._post = Post(
                config.redis,
                channels_of(config.cluster, config.redis),
                name,
                secrets.token_hex(8),
                BusLimits(limits.outbox_bytes, limits.outbox_age_s, limits.canary_s, config.nodes.lease_s),
                peers=neighbours.expected,
            )
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise UsageError(f"certificates of {without_password(config.redis)} cannot be read: {reason}") from None
        self._asker = Asker(post, Questions(post), neighbours)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for job in (post.run(), neighbours.run()):
            stack.callback(group.create_task(job).cancel)
        return post

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        post, self._post, self._asker = self._post, None, None
        assert post is not None
        try:
            await self._leave(post)
        finally:
            await self._stack.aclose()

    async def _leave(self, post: Post) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                while post.bus.waiting_bytes:
                    await post.bus.up(LEAVE_S)
                    await post.bus.room(0)
        except TimeoutError:
            log.warning("messages left behind", extra={"messages": post.bus.figures().outbox_messages})

    @property
    def _running(self) -> Post:
        if self._post is None:
            raise UsageError("this Emitter is not open: use it in `async with Emitter(…) as emitter`")
        return self._post

    @property
    def _operations(self) -> Operations:
        assert self._running
        return Operations({}, self._asker, self._channels_to)

    def _channels_to(self, space: str, whom: Rooms | None) -> list[Channel]:
        channels = self._running.channels
        if whom is None:
            return [channels.everybody(space)]
        found = []
        for room in rooms_in(whom):
            name = shown_slot_of(room) if isinstance(room, str) else None
            found.append(channels.room(space, room) if name is None else channels.node(name))
        return list(dict.fromkeys(found))

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Rooms | None = None,
        *,
        room: Rooms | None = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        volatile: bool = False,
        except_rooms: Rooms | None = None,
    ) -> Fate:
        """Emit an event as `Server.emit` does; return what becomes of it.

        Raises TypeError for data that cannot be sent, and for what is no room.
        """
        post, space = self._running, namespace or MAIN
        whom = target(to, room, space, skip_sid, except_rooms)
        message = self._codec.event(space, [event, *arguments_of(data)])
        content = Emit(space, whom.rooms, message.text, message.binaries, whom.skip, whom.except_rooms, volatile)
        channels = self._channels_to(space, target_of(to, room))
        if volatile and not self.is_connected:
            return Fate.DROPPED
        fate = post.send_all(channels, content) if channels else Fate.LOCAL
        if post.bus.is_behind:
            await post.bus.room()
        return fate

    async def call(
        self, event: str, data: Any = None, *, to: str, namespace: str | None = None, timeout: float | None = 60
    ) -> Any:
        """Emit an event to the client `to` and return what it acknowledges with.

        Raises TimeoutError, at once if there is no such client.
        """
        answers = await self.broadcast_call(event, data, to, namespace=namespace, timeout=timeout)
        if to not in answers.given:
            raise TimeoutError(f"no answer to {event!r} from {to}")
        return answers.given[to]

    @property
    def is_connected(self) -> bool:
        """Whether what is emitted now goes out now."""
        return self._asker is not None and self._asker.is_heard


def _codec_for(serializer: Any, json: Any) -> Codec:
    if serializer == "default":
        return JsonCodec(json)
    # The other formats are python-socketio's, which is not needed for this one.
    from node.formats import codec_for

    return codec_for(serializer, json)
