"""The application of the Socket.IO benchmarks with faults, which the benchmarks must find; two have none.

benchmarks/socketio.py --app tests.benchmarks.faulty:losing
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from node import Server

Emit = Callable[[Server, str, int, str], Awaitable[None]]


async def _index(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _send(sio: Server, number: int, text: str, to: str | None = None) -> None:
    await sio.emit("message", {"n": number, "text": text}, to=to)


async def _well(sio: Server, sid: str, number: int, text: str) -> None:
    await _send(sio, number, text)


def _server(emit: Emit = _well, answer: Callable[[str], str] = str, **options: Any) -> Server:
    sio = Server(**options)

    @sio.event
    async def echo(sid: str, text: str) -> str:
        return answer(text)

    @sio.event
    async def where(sid: str) -> str:
        return sio.node.name

    @sio.event
    async def say(sid: str, what: dict[str, Any]) -> None:
        numbers = range(what["first"], what["first"] + what["count"])
        for number in numbers:
            await emit(sio, sid, number, what["text"])

    sio.web.router.add_get("/", _index)
    return sio


async def _all_but_some(sio: Server, sid: str, number: int, text: str) -> None:
    if number % 3:
        await _send(sio, number, text)


async def _twice_to_the_speaker(sio: Server, sid: str, number: int, text: str) -> None:
    await _send(sio, number, text)
    await _send(sio, number, text, to=sid)


async def _in_pairs_turned_round(sio: Server, sid: str, number: int, text: str) -> None:
    if number % 2:
        await _send(sio, number, text)
        await _send(sio, number - 1, text)


async def _two_handlers_side_by_side(sio: Server, sid: str, number: int, text: str) -> None:
    if number % 4 == 3:
        for each in (number - 3, number - 1, number - 2, number):
            await _send(sio, each, text)


async def _with_another_text(sio: Server, sid: str, number: int, text: str) -> None:
    await _send(sio, number, text.upper() if number else text)


async def _and_dropping_the_speaker(sio: Server, sid: str, number: int, text: str) -> None:
    await _send(sio, number, text)
    await sio.disconnect(sid)


pinging = _server(ping_interval=0.2, ping_timeout=0.3)
losing = _server(_all_but_some)
doubling = _server(_twice_to_the_speaker)
reordering = _server(_in_pairs_turned_round)
overlapping = _server(_two_handlers_side_by_side)
changing = _server(_with_another_text, answer=str.upper)
dropping = _server(_and_dropping_the_speaker)
