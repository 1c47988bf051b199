"""Whatever a client and a server do, in any order: no message is lost, none comes twice, none overtakes another."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from contextlib import suppress
from typing import Any

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine import Engine
from node.migration import NotPortable
from tests.support.engine import PATH, Heard, message, opened, serving
from tests.support.migrating import moved
from tests.support.waiting import eventually

Step = tuple[str, int]
KINDS = ["send", "send", "flood", "post", "poll", "probe", "upgrade", "abandon", "move"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 40)), max_size=25)


def wire(number: int) -> str | bytes:
    """Every third message is binary."""
    return b"%d" % number if number % 3 == 0 else str(number)


class Client:
    """Plays a client by the rules: one request at a time, no poll and no post once it has its `3probe`."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self._http = http
        self.address = address
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.is_upgraded = False
        self.is_paused = False
        self.heard: list[str | bytes] = []
        self.said = 0

    async def poll(self) -> None:
        if self.is_paused:
            return
        async with self._http.get(self.address) as answer:
            assert answer.status == 200
            payload = await answer.text()
        packets = payload.split("\x1e")
        assert len(packets) <= 16
        for packet in packets:
            if packet[0] == "b":
                self.heard.append(b64decode(packet[1:]))
            elif packet[0] == "4":
                self.heard.append(packet[1:])
            else:
                assert packet == "6"

    async def say(self, count: int) -> None:
        texts = [f"4{number}" for number in range(self.said, self.said + count)]
        if self.is_upgraded:
            assert self._socket is not None
            for text in texts:
                await self._socket.send_str(text)
        elif self.is_paused:
            return
        else:
            async with self._http.post(self.address, data="\x1e".join(texts)) as answer:
                assert answer.status == 200
        self.said += count

    async def probe(self) -> None:
        if self._socket is None:
            self._socket = await self._http.ws_connect(self.address.replace("polling", "websocket"))
            await self._socket.send_str("2probe")
            assert await self._socket.receive_str() == "3probe"
            self.is_paused = True

    async def upgrade(self) -> None:
        await self.probe()
        assert self._socket is not None
        if not self.is_upgraded:
            await self._socket.send_str("5")
            self.is_upgraded = True

    async def abandon(self, engine: Engine) -> None:
        if self._socket is not None and not self.is_upgraded:
            await self._socket.close()
            self._socket, self.is_paused = None, False
            [session] = engine.sessions.values()
            await eventually(lambda: session.polling and session.polling.probe is None)

    async def hear(self, count: int) -> None:
        """Fetch everything up to `count` messages."""
        if self.is_paused and not self.is_upgraded:
            await self.upgrade()
        while len(self.heard) < count:
            if not self.is_upgraded:
                await self.poll()
                continue
            assert self._socket is not None
            heard: Any = (await self._socket.receive()).data
            self.heard.append(heard[1:] if isinstance(heard, str) else heard)


async def play(steps: list[Step]) -> None:
    heard = Heard(echoes=False)
    async with (
        asyncio.timeout(30),
        serving(heard) as (engine, url),
        serving(heard) as (other, elsewhere),
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{url}{PATH}polling") as answer:
            client = Client(http, f"{url}{PATH}polling&sid={opened(await answer.text())['sid']}")
        [session] = engine.sessions.values()
        sent = 0
        for step, count in steps:
            if step in ("send", "flood"):
                for _ in range(count if step == "send" else 10 * count):
                    assert session.send(message(wire(sent)))
                    sent += 1
            elif step == "post":
                await client.say(count)
            elif step == "poll" and (sent > len(client.heard)) and not client.is_upgraded:
                await client.poll()
            elif step in ("probe", "upgrade"):
                await getattr(client, step)()
            elif step == "abandon":
                await client.abandon(engine)
            elif step == "move":
                with suppress(NotPortable):  # It is just about to upgrade.
                    session = await moved(session, other)
                    client.address = client.address.replace(url, elsewhere)
                    engine, other, url, elsewhere = other, engine, elsewhere, url
        await client.hear(sent)
        await client.say(1)
        assert client.heard == [wire(number) for number in range(sent)]
        await eventually(lambda: len(heard.messages) >= client.said)
        assert heard.messages == [str(number) for number in range(client.said)]
        assert session.is_open


@settings(max_examples=60)
@given(STEPS)
def test_every_message_arrives_once_and_in_order(steps: list[Step]) -> None:
    """Over polls, posts, upgrades, abandoned upgrades, moves to another engine, and many messages in one turn."""
    asyncio.run(play(steps))
