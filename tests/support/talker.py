"""A Socket.IO client that never stops talking to `tests.support.moving_app`, and keeps account of all it hears."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.raw_socketio import ENGINE, RawClient

PACE_S = 0.2
SHOUT_EVERY, ASK_EVERY = 3, 5
"""Of its rounds."""


class Talker:
    """One client, over a WebSocket, in `room`.  `faults` are what must not be."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, name: str, room: str) -> None:
        self._client = RawClient(socket)
        self.name, self.room = name, room
        self.sid = ""
        self.faults: list[str] = []
        self.said = self.shouted = self.asked = 0
        self.answered: list[int] = []
        self.answers_to_asking = 0
        self.heard: dict[str, list[int]] = defaultdict(list)
        self.woken: dict[str, list[int]] = defaultdict(list)
        self.pids: set[int] = set()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._is_done = False

    async def connect(self) -> None:
        self.sid = await self._client.connect(auth=json.dumps({"name": self.name, "room": self.room}))

    # Out

    async def talk(self, after_s: float) -> None:
        """Talk until `finish` is called."""
        await asyncio.sleep(after_s)
        while not self._is_done:
            self.said += 1
            await self._event("count", self.said, attachment=b"%s-%d" % (self.name.encode(), self.said))
            if self.said % SHOUT_EVERY == 0:
                self.shouted += 1
                await self._client.say(f'2["shout",{self.shouted}]')
            if self.said % ASK_EVERY == 0:
                self.asked += 1
                await self._event("ask_me", self.asked)
            await asyncio.sleep(PACE_S)  # its metronome

    def finish(self) -> None:
        self._is_done = True

    async def _event(self, event: str, *data: Any, attachment: bytes = b"") -> int:
        self._last_id += 1
        arguments = json.dumps([event, *data, *([{"_placeholder": True, "num": 0}] if attachment else [])])
        if attachment:
            await self._client.say(f"51-{self._last_id}{arguments}", attachment)
        else:
            await self._client.say(f"2{self._last_id}{arguments}")
        return self._last_id

    async def ask_who(self) -> dict[str, Any]:
        """Return what the node knows about it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id + 1] = answer
        await self._event("who")
        async with asyncio.timeout(30):
            known: dict[str, Any] = (await answer)[0]
        return known

    # In

    async def listen(self) -> None:
        """Take account of what comes, until the connection ends."""
        while (packet := await self._client.hear(within_s=30)) is not None:
            if not isinstance(packet, str):
                self.faults.append(f"an attachment that nobody announced: {packet!r}")
                continue
            kind, rest = packet[0], packet[1:]
            attachments = []
            if kind in "56":
                count, rest = rest.split("-", 1)
                attachments = [await self._client.hear() for _ in range(int(count))]
            id_, _, payload = rest.partition("[")
            await self._take(kind, int(id_) if id_ else 0, json.loads("[" + payload), attachments)
        if not self._is_done:
            self.faults.append("disconnected")

    async def _take(self, kind: str, id_: int, data: list[Any], attachments: list[Any]) -> None:
        if kind in "36":
            self._acknowledged(id_, data, attachments)
        elif data[0] == "shouted":
            _, name, number, is_next, _ = data
            self.heard[name].append(number)
            if not is_next or attachments != [b"%d" % number]:
                self.faults.append(f"a shout out of order: {data}, {attachments}")
        elif data[0] == "woke":
            self.woken[data[1]].append(data[2])
        elif data[0] == "asked":
            await self._client.say(f"3{id_}[{data[1]}]")

    def _acknowledged(self, id_: int, data: list[Any], attachments: list[Any]) -> None:
        if id_ in self._waiting:
            self._waiting.pop(id_).set_result(data)
        elif attachments:
            [[number, is_next, _, pid]] = data
            self.answered.append(number)
            self.pids.add(pid)
            if not is_next or attachments != [b"%s-%d" % (self.name.encode(), number)]:
                self.faults.append(f"an answer that is not right: {data}, {attachments}")
        elif data == [True]:
            self.answers_to_asking += 1
        else:
            self.faults.append(f"another answer than it gave: {data}")

    def is_answered(self) -> bool:
        return len(self.answered) >= self.said and self.answers_to_asking >= self.asked

    async def close(self) -> None:
        self.finish()
        await self._client.close()


@asynccontextmanager
async def talkers(url: str, count: int, per_room: int) -> AsyncIterator[list[Talker]]:
    """Open clients at `url`, so many in each room, that talk until the block ends."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        all_of_them = []
        for number in range(count):
            socket = await http.ws_connect(url + ENGINE, max_msg_size=0)
            await socket.receive()
            talker = Talker(socket, f"t{number}", f"room{number // per_room}")
            await talker.connect()
            all_of_them.append(talker)
        for talker in all_of_them:
            tasks.create_task(talker.listen())
        # Not in step: whenever one looks, some are in the middle of something.
        talking = [
            tasks.create_task(talker.talk(7 * PACE_S * number / count)) for number, talker in enumerate(all_of_them)
        ]
        try:
            yield all_of_them
        finally:
            for talker in all_of_them:
                talker.finish()
            await asyncio.gather(*talking)
            for talker in all_of_them:
                await talker.close()
