"""Engine.IO protocol 4: "HTTP long-polling", "Message" and "Packet encoding" over it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.engine import polled_session

PATH = "/socket.io/?EIO=4&transport="


class Poller:
    """A session by hand."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self.http = http
        self.address = address

    async def post(self, body: str | bytes, **options: Any) -> tuple[int, str]:
        async with self.http.post(self.address, data=body, **options) as answer:
            return answer.status, await answer.text()

    async def poll(self) -> tuple[int, str]:
        async with self.http.get(self.address) as answer:
            return answer.status, await answer.text()

    async def is_over(self) -> bool:
        return (await self.poll())[0] == 400 and (await self.post("4x"))[0] == 400


@asynccontextmanager
async def session_at(url: str) -> AsyncIterator[Poller]:
    async with aiohttp.ClientSession() as http:
        yield Poller(http, await polled_session(http, url, PATH))


def with_session(url: str, test: Callable[[Poller], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), session_at(url) as poller:
            await test(poller)

    asyncio.run(main())


PAYLOADS = {
    "one packet": "4hello",
    "several packets": "4test1\x1e4test2\x1e4test3",
    "text and binary": "4hello\x1ebAQIDBA==",
    "empty messages": "4\x1e4\x1eb",
    "other alphabets": "4€ и 한\x1e4\U0001f600",
    "what looks like packets": "442\x1e4b\x1e41",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_what_is_posted_is_received_and_what_is_sent_is_polled(calm_url: str, payload: str) -> None:
    """`ok` for the POST; packets in the answer to a poll as in a POST: separated by \\x1e, binary data in base64."""

    async def test(poller: Poller) -> None:
        assert await poller.post(payload) == (200, "ok")
        assert await poller.poll() == (200, payload)

    with_session(calm_url, test)


def test_a_poll_waits_for_something_to_say(calm_url: str) -> None:
    """ "The server MAY not respond right away if there are no packets buffered." """

    async def test(poller: Poller) -> None:
        poll = asyncio.ensure_future(poller.poll())
        done, _ = await asyncio.wait([poll], timeout=0.3)
        assert not done
        assert await poller.post("4now") == (200, "ok")
        assert await poll == (200, "4now")

    with_session(calm_url, test)


def test_the_content_type_does_not_matter(calm_url: str) -> None:
    """Payloads are text in this revision, whatever a client says of them."""

    async def test(poller: Poller) -> None:
        for kind in ("text/plain", "text/plain;charset=UTF-8", "application/octet-stream"):
            assert await poller.post("4x", headers={"Content-Type": kind}) == (200, "ok")
            assert await poller.poll() == (200, "4x")

    with_session(calm_url, test)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with-length", "chunked"])
def test_a_body_may_come_in_pieces_cut_anywhere(calm_url: str, is_chunked: bool) -> None:
    """Also in the middle of a character."""
    body = ("4" + "€" * 30_000).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    async def test(poller: Poller) -> None:
        headers = {} if is_chunked else {"Content-Length": str(len(body))}
        async with poller.http.post(poller.address, data=pieces(), headers=headers) as answer:
            assert answer.status == 200
        status, text = await poller.poll()
        assert (status, text.encode()) == (200, body)

    with_session(calm_url, test)


def test_an_answer_holds_at_most_16_packets_and_none_is_lost(calm_url: str) -> None:
    """As many as python-engineio's client decodes; a client may post up to 1,000."""

    async def test(poller: Poller) -> None:
        sent = [f"4{number}" for number in range(1000)]
        assert await poller.post("\x1e".join(sent)) == (200, "ok")
        heard: list[str] = []
        while len(heard) < 1000:
            _, payload = await poller.poll()
            packets = payload.split("\x1e")
            assert len(packets) <= 16
            heard += packets
        assert heard == sent

    with_session(calm_url, test)


BAD = {
    "no type": "abc",
    "an unknown type": "7",
    "nothing": "",
    "nothing behind a separator": "4x\x1e",
    "nothing before a separator": "\x1e4x",
    "no base64": "bA",
    "base64 with something else in it": "bAQID!BA==",
    "not UTF-8": b"4\xff\xfe",
    "more than 1,000 packets": "\x1e".join(["4"] * 1001),
    "an open packet": "0{}",
    "a ping": "2",
    "a probe": "2probe",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_payload_ends_the_session(calm_url: str, body: str | bytes) -> None:
    """400, and nothing of it is taken; the session is known no more."""

    async def test(poller: Poller) -> None:
        assert (await poller.post(body))[0] == 400
        assert await poller.is_over()

    with_session(calm_url, test)


def test_what_is_too_large_ends_the_session_with_413(calm_url: str) -> None:
    """maxPayload is 1,000,000 bytes; as much as that is taken."""

    async def test(poller: Poller) -> None:
        assert await poller.post("4" + "x" * 999_999) == (200, "ok")
        assert len((await poller.poll())[1]) == 1_000_000
        assert (await poller.post("4" + "x" * 1_000_000))[0] == 413
        assert await poller.is_over()

    with_session(calm_url, test)


def test_a_second_poll_ends_the_session(calm_url: str) -> None:
    """ "Should it happen, the server MUST return an HTTP 400 error status and close the session." """

    async def test(poller: Poller) -> None:
        first = asyncio.ensure_future(poller.poll())
        await asyncio.wait([first], timeout=0.2)
        assert (await poller.poll())[0] == 400
        assert await first == (200, "1")
        assert await poller.is_over()

    with_session(calm_url, test)


def test_a_second_post_ends_the_session(calm_url: str) -> None:
    """The order of packets would be lost."""

    async def test(poller: Poller) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"4sl"
            begun.set()
            await go_on.wait()
            yield b"ow"

        first = asyncio.ensure_future(poller.post(slowly()))  # type: ignore[arg-type]
        await begun.wait()
        await asyncio.wait([first], timeout=0.3)
        assert (await poller.post("4fast"))[0] == 400
        go_on.set()
        assert (await first)[0] == 400
        assert await poller.is_over()

    with_session(calm_url, test)


def test_a_client_says_goodbye(calm_url: str) -> None:
    """Its poll is answered with a noop; what it sent behind the close packet is not taken."""

    async def test(poller: Poller) -> None:
        poll = asyncio.ensure_future(poller.poll())
        await asyncio.wait([poll], timeout=0.2)
        assert await poller.post("1\x1e4x") == (200, "ok")
        assert await poll == (200, "6")
        assert await poller.is_over()

    with_session(calm_url, test)


def test_a_client_whose_poll_was_cut_off_polls_again_and_has_lost_nothing(calm_url: str) -> None:
    """A phone between two networks: the poll that is gone does not count."""

    async def test(poller: Poller) -> None:
        async with aiohttp.ClientSession() as other:
            with pytest.raises(TimeoutError):
                async with other.get(poller.address, timeout=aiohttp.ClientTimeout(total=0.3)):
                    pass
        await asyncio.sleep(0.3)  # for the other end to notice: it is another process
        assert await poller.post("4still here") == (200, "ok")
        assert await poller.poll() == (200, "4still here")

    with_session(calm_url, test)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_large_answers_are_compressed_for_who_takes_it(calm_url: str, encoding: str) -> None:
    """From 1,024 bytes on."""

    async def test(poller: Poller) -> None:
        for size, expected in ((2000, encoding), (500, None)):
            await poller.post("4" + "x" * size)
            async with poller.http.get(poller.address, headers={"Accept-Encoding": encoding}) as answer:
                assert answer.headers.get("Content-Encoding") == expected
                assert await answer.text() == "4" + "x" * size

    with_session(calm_url, test)
