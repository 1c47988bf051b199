"""An application for `python -m node` whose clients can be moved to another node that runs it.

`POST /move?to=PORT` moves all of them, room by room; `GET /state` says who is here.  $MOVES is the directory where the
nodes listen for each other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import defaultdict
from typing import Any

from aiohttp import web

from node import Server, migration
from node.migration import NotPortable, forget, give, hold_all, send_away, stay, take
from node.session import Session
from tests.support.moving import listening, pass_on, passed

migration.HOLD_WAIT_S = 30.0
"""A handler may take as long as the machine needs."""

sio = Server(ping_interval=1, ping_timeout=4)

NAP_EVERY, NAP_S = 7, 0.03
"""The handler of every so manieth event waits so long, and then tells the room."""


def path_of(port: int) -> str:
    return f"{os.environ['MOVES']}/{port}.sock"


# What clients do


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
    said = {"name": sid, "room": "library", **(auth or {})}
    await sio.save_session(sid, {**said, "heard": 0, "shouts": 0})
    await sio.enter_room(sid, said["room"])
    sio.presence.join(sid, said["name"])


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    ended.append(reason)


@sio.event
async def count(sid: str, number: int, blob: Any) -> list[Any]:
    """Events are numbered from 1: answers with the number, whether it was the next, and where."""
    session = await sio.get_session(sid)
    session["heard"] += 1
    is_next = session["heard"] == number
    if number % NAP_EVERY == 0:
        await asyncio.sleep(NAP_S)
        await sio.emit("woke", (session["name"], number), to=session["room"])
    return [number, is_next, blob, os.getpid()]


@sio.event
async def shout(sid: str, number: int) -> None:
    """Tell everybody in the room, oneself too."""
    session = await sio.get_session(sid)
    session["shouts"] += 1
    is_next = session["shouts"] == number
    await sio.emit("shouted", (session["name"], number, is_next, b"%d" % number), to=session["room"])


@sio.event
async def ask_me(sid: str, number: int) -> bool:
    """Ask the client back while its own event is handled."""
    return bool(await sio.call("asked", number, to=sid, timeout=20) == number)


@sio.event
async def who(sid: str) -> dict[str, Any]:
    about = {"rooms": sorted(sio.rooms(sid)), "sid": sid, "pid": os.getpid(), "user": sio.presence.user_of(sid)}
    return {**await sio.get_session(sid), **about}


@sio.event
async def flood(sid: str, messages: int, size: int) -> None:
    """The first is so large."""
    for number in range(messages):
        await sio.emit("drop", (number, "x" * (1 if number else size)), to=sid)
    flooded.append(sid)


# Moving


ended: list[str] = []
flooded: list[str] = []
tasks: set[asyncio.Task[None]] = set()


def room_of(session: Session) -> str:
    """Who is in no room of its own choice is alone."""
    for client in session.client.clients():
        for room in client.rooms or ():
            return str(room)
    return session.sid


async def moved(group: list[Session], path: str) -> int:
    """Move a group; return how many went."""
    held = await hold_all(group)
    states, going = [], []
    for session in held:
        try:
            states.append(take(session))
            going.append(session)
        except NotPortable as exc:
            stay(session)
            send_away(session, str(exc))
    if not going:
        return 0
    descriptors = [session.channel.fileno() for session in going if session.channel is not None]
    try:
        taken = await asyncio.to_thread(pass_on, path, states, descriptors)
    except OSError:
        taken = [False] * len(going)
    for session, state, is_taken in zip(going, states, taken, strict=True):
        if is_taken:
            forget(session)
        else:
            stay(session, state)
    return sum(taken)


async def move(request: web.Request) -> web.Response:
    groups: dict[str, list[Session]] = defaultdict(list)
    for session in sio.eio.sessions.values():
        groups[room_of(session)].append(session)
    count, worst_s = 0, 0.0
    for group in groups.values():
        began = time.monotonic()
        count += await moved(group, path_of(int(request.query["to"])))
        worst_s = max(worst_s, time.monotonic() - began)
    return web.json_response({"moved": count, "worst_s": worst_s})


async def state(_: web.Request) -> web.Response:
    return web.json_response({"sids": list(sio.eio.sessions), "ended": ended, "flooded": flooded, "pid": os.getpid()})


async def arrive(link: socket.socket) -> None:
    """Take a group in: all of it is here before anything of it goes on."""
    loop = asyncio.get_running_loop()
    with link:
        group = await asyncio.to_thread(passed, link)
        channels, answers = [], bytearray()
        for state, sock in group:
            try:
                channels.append((give(sio.eio, state).channel, sock))
            except NotPortable:
                sock.close()
            answers.append(bool(channels) and channels[-1][1] is sock)
        link.settimeout(10)
        await asyncio.to_thread(link.sendall, answers)
        for channel, sock in channels:
            assert channel is not None
            await loop.connect_accepted_socket(lambda channel=channel: channel, sock)  # type: ignore[misc]


async def accept(_: web.Application) -> None:
    listener = listening(path_of(sio.node.port))
    listener.setblocking(False)

    def on_readable() -> None:
        link, _ = listener.accept()
        task = asyncio.ensure_future(arrive(link))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(listener, on_readable)


sio.web.on_startup.append(accept)
sio.web.add_routes([web.post("/move", move), web.get("/state", state)])
