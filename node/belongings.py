"""The Socket.IO part of a session as plain data: what goes with a connection to another process (node/migration.py).

The user session is the engine session's `data`, and goes with that.  Callbacks are functions and stay behind: before a
session moves, its client gets a while to acknowledge what it was asked.  An acknowledgement that comes after the move
finds nobody, but it finds nobody else's callback either.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from node.clients import ClientManager
from node.codec import BadPacket, Codec, Packet, Partial
from node.peer import Kept, Peer
from node.plain import NotPortable, check_plain
from node.rooms import Client, State

if TYPE_CHECKING:
    from node.dispatch import Dispatcher
    from node.server import Server
    from node.session import Session

Json = dict[str, Any]


class Belongings:
    """Takes and gives them, for `server`.  It is a node.handler.Moving."""

    def __init__(self, server: Server, codec: Codec, dispatcher: Dispatcher) -> None:
        self._server, self._codec, self._dispatcher = server, codec, dispatcher

    @property
    def _manager(self) -> ClientManager:
        manager: ClientManager = self._server.manager
        return manager

    def hold(self, session: Session) -> None:
        peer: Peer = session.client
        waiting, peer.waiting = peer.waiting, Kept(session, peer.waiting or ())
        if waiting is not None:
            waiting.clear()  # Who does them one by one has no more to do.

    async def quiet(self, session: Session, within_s: float) -> bool:
        handling, peer = self._dispatcher.handling, session.client
        try:
            async with asyncio.timeout(within_s):
                while (kept := _held(peer)) is not None:
                    if running := handling.of(peer):
                        await asyncio.wait(running)
                    elif self._is_asked(peer):
                        kept.acknowledged.clear()
                        await kept.acknowledged.wait()
                    else:
                        break
        except TimeoutError:
            return not handling.of(peer)
        return True

    def busy(self) -> set[Session]:
        return self._dispatcher.handling.busy()

    def _is_asked(self, peer: Peer) -> bool:
        """Whether the client owes an acknowledgement.  python-socketio keeps its counter under 0."""
        callbacks = self._manager.callbacks
        return any(len(callbacks.get(client.sid, ())) > 1 for client in peer.clients())

    def release(self, session: Session) -> None:
        peer: Peer = session.client
        if (kept := _held(peer)) is not None:
            self._go_on(peer, kept)

    def _go_on(self, peer: Peer, kept: Kept) -> None:
        if peer.waiting is not kept:
            return  # It is held again.
        kept.is_held = False
        if kept:
            self._dispatcher.do(peer, kept)
        else:
            peer.waiting = None

    def taken(self, session: Session) -> Json:
        """Take its clients away, without a word to their handlers.  Raises NotPortable."""
        peer: Peer = session.client
        clients, kept = peer.clients(), _held(peer)
        if kept is None or self._dispatcher.handling.of(peer):
            raise NotPortable("a handler works on it")
        if any(client.state is not State.CONNECTED for client in clients):
            raise NotPortable("one of its clients comes or goes")
        partial = peer.partial
        state: Json = {
            "clients": [_state_of(client, self._manager) for client in clients],
            "greeted": peer.greeted,
            "waiting": [[job.kind, job.namespace, job.id, job.data] for job in kept if isinstance(job, Packet)],
            "partial": None if partial is None else {"text": partial.text, "attachments": partial.attachments},
        }
        check_plain(state, "client")
        for client, each in zip(clients, state["clients"], strict=True):
            self._manager.basic_disconnect(client.sid, client.namespace)
            each["user"] = self._server.take_user(client.sid)
        self._dispatcher.patience.end(session)
        return state

    def given(self, session: Session, state: Json) -> None:
        """Let it have the clients of `state`.  Raises NotPortable."""
        self._server.start_manager()
        peer = session.client = Peer(session)
        try:
            peer.greeted = state["greeted"]
            peer.partial = None if state["partial"] is None else self._partial(state["partial"])
            kept = Kept(session, [Packet(*each) for each in state["waiting"]])
            for each in state["clients"]:
                self._add(peer, each)
        except (KeyError, TypeError, ValueError, BadPacket) as exc:
            for client in peer.clients():
                self._manager.basic_disconnect(client.sid, client.namespace)
                self._server.take_user(client.sid)
            raise NotPortable(f"not the clients of a session: {exc!r}") from None
        if kept:
            peer.waiting = kept
            # Not at once: others may come together with this one, and shall hear what its handlers have to say.
            asyncio.get_running_loop().call_soon(self._go_on, peer, kept)
        self._dispatcher.watch(peer)

    def _add(self, peer: Peer, state: Json) -> None:
        manager = self._manager
        client = manager.directory.add(peer.session, state["sid"], state["namespace"])
        client.state = State.CONNECTED
        peer.add(client)
        for room in state["rooms"]:
            manager.directory.enter(client, room)
        if state["next_id"] > 1:
            manager.callbacks[client.sid] = {0: itertools.count(state["next_id"])}
        self._server.give_user(client.sid, state["user"])

    def _partial(self, state: Json) -> Partial:
        partial = self._codec.decode(state["text"])
        if not isinstance(partial, Partial):
            raise BadPacket("it is not half a packet")
        for attachment in state["attachments"]:
            partial.add(attachment)
        return partial


def _held(peer: Peer) -> Kept | None:
    return peer.waiting if isinstance(peer.waiting, Kept) and peer.waiting.is_held else None


def _state_of(client: Client, manager: ClientManager) -> Json:
    pending: dict[int, Any] = manager.callbacks.get(client.sid, {})
    # A counter tells its next number only to who takes it.
    next_id = next(pending[0]) if pending else 1
    return {"namespace": client.namespace, "sid": client.sid, "rooms": list(client.rooms or ()), "next_id": next_id}
