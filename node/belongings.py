"""The Socket.IO part of a session as plain data: what goes with a connection to another process (node/migration.py).

The user session is the engine session's `data`, and goes with that.  Callbacks are functions and stay behind: an
acknowledgement that comes after the move finds nobody, but it finds nobody else's callback either.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from node.clients import ClientManager
from node.codec import Codec, Partial
from node.migration import NotPortable
from node.peer import Peer
from node.rooms import Client, State

if TYPE_CHECKING:
    from node.session import Session

Json = dict[str, Any]


def taken(session: Session, manager: ClientManager) -> Json:
    """Take the clients of `session` away, without a word to their handlers; return what `given` needs.

    Raises NotPortable while a handler decides about the session, or packets of it wait; then nothing has changed.
    """
    peer: Peer = session.client
    if peer.waiting is not None or any(client.state is not State.CONNECTED for client in peer.clients()):
        raise NotPortable("a handler works on it")
    partial = peer.partial
    state = {
        "clients": [_state_of(client, manager) for client in peer.clients()],
        "greeted": peer.greeted,
        "partial": None if partial is None else {"text": partial.text, "attachments": partial.attachments},
    }
    for client in peer.clients():
        manager.basic_disconnect(client.sid, client.namespace)
    return state


def given(session: Session, state: Json, manager: ClientManager, codec: Codec) -> None:
    """Let `session` have the clients of `state`."""
    peer = session.client = Peer(session)
    peer.greeted = state["greeted"]
    for each in state["clients"]:
        client = manager.directory.add(session, each["sid"], each["namespace"])
        client.state = State.CONNECTED
        peer.add(client)
        for room in each["rooms"]:
            manager.directory.enter(client, room)
        if each["next_id"] > 1:
            manager.callbacks[client.sid] = {0: itertools.count(each["next_id"])}
    if state["partial"] is not None:
        partial = codec.decode(state["partial"]["text"])
        assert isinstance(partial, Partial)
        for attachment in state["partial"]["attachments"]:
            partial.add(attachment)
        peer.partial = partial


def _state_of(client: Client, manager: ClientManager) -> Json:
    pending: dict[int, Any] = manager.callbacks.get(client.sid, {})
    # python-socketio keeps its counter under 0, and a counter tells its next number only to who takes it.
    next_id = next(pending[0]) if pending else 1
    return {"namespace": client.namespace, "sid": client.sid, "rooms": list(client.rooms or ()), "next_id": next_id}
