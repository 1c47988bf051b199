"""The chat's events.  Every payload names the node and the port that it comes from.

From clients, each answered by an acknowledgement, `{"ok": false, "error"}` when it is refused:

* `register` `{username}`: be this user; one user may have several devices.  Answers `{ok, username, node, port,
  online}`.
* `message` `{text}`: say it to everybody.  Answers `{ok}`.
* `online_users`: answers `{count, users, node, port}`.

To clients: `welcome` after connecting, `message`, `user_joined` and `user_left` (once for each user, not for each
device), and `online_users` after changes.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from aiohttp import web

from node import Server
from node.chat.inputs import BadInput, text_in, username_in
from node.roster import Change, Roster, User

# The welcome goes out in the connect handler, so the client must know before that it is connected.
sio = Server(always_connect=True)

Json = dict[str, Any]

MOST_LISTED = 1000
"""Users in a list; `count` says how many there are."""


@sio.event
async def connect(sid: str, environ: Json, auth: object = None) -> None:
    await sio.emit("welcome", {**_here(), "cluster": sio.node.cluster}, to=sid)


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    await sio.presence.leave(sid)


@sio.event
async def register(sid: str, data: object = None) -> Json:
    try:
        username = username_in(data)
    except BadInput as exc:
        return _refused(exc)
    sio.presence.join(sid, username)
    await sio.presence.synced()
    return {"ok": True, "username": username, **_here(), "online": _online(sio.presence.users())}


@sio.event
async def message(sid: str, data: object = None) -> Json:
    username = sio.presence.user_of(sid)
    if username is None:
        return _refused(BadInput("register with a username first"))
    try:
        text = text_in(data)
    except BadInput as exc:
        return _refused(exc)
    await sio.emit("message", {"username": username, "text": text, **_here(), "at": time.time()})
    return {"ok": True}


@sio.event
async def online_users(sid: str, data: object = None) -> Json:
    await sio.presence.synced()
    return {**_online(sio.presence.users()), **_here()}


async def _tell(change: Change) -> None:
    """Tell this node's clients who came and went; each node hears of every change and tells its own."""
    count = len(change.roster)
    for event, users in (("user_joined", change.joined), ("user_left", change.left)):
        for user in users:
            where = {"node": user.nodes[0], "port": user.ports[0]}
            payload = {"username": user.user_id, **where, "at": time.time(), "count": count}
            await sio.emit(event, payload, ignore_queue=True)
    await sio.emit("online_users", {**_online(change.roster), **_here()}, ignore_queue=True)


async def _listen(_: web.Application) -> None:
    sio.presence.listen(_tell)


sio.web.on_startup.append(_listen)


def _here() -> Json:
    return {"node": sio.node.name, "port": sio.node.port}


def _online(roster: Roster) -> Json:
    users = sorted((roster[user_id] for user_id in islice(roster, MOST_LISTED)), key=lambda user: user.since)
    return {"count": len(roster), "users": [_user(user) for user in users]}


def _user(user: User) -> Json:
    return {
        "username": user.user_id,
        "devices": user.devices,
        "nodes": list(user.nodes),
        "ports": list(user.ports),
        "since": user.since,
    }


def _refused(exc: BadInput) -> Json:
    return {"ok": False, "error": str(exc)}
