"""Each request and each answer of the corpus has the outcome that it must have, through a real balancer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tests.lb.corpus import ANSWERS, CUT, REQUESTS, Case
from tests.support.balancer import balancer
from tests.support.upstreams import scripted_server

WAIT_S = 10.0


@asynccontextmanager
async def recording_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server that takes one whole request on each connection, answers 200, and keeps what it got."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.append(await _whole_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        except asyncio.IncompleteReadError:
            return  # a probe of the connection, or a request that was given up in the middle
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        await server.wait_closed()


async def _whole_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request as the strictest server would: our balancer writes one spelling of each."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"\r\nTransfer-Encoding: chunked\r\n" in head:
        return head + await reader.readuntil(b"0\r\n\r\n")
    _, found, rest = head.partition(b"\r\nContent-Length: ")
    return head + (await reader.readexactly(int(rest.partition(b"\r\n")[0])) if found else b"")


def _ids(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", REQUESTS, ids=_ids)
def test_a_request_is_refused_or_goes_on_as_exactly_these_bytes(case: Case) -> None:
    """Refused means: with this status, no node hears of it, and the connection ends."""

    async def main() -> None:
        async with recording_server() as (port, requests), balancer(port, traceparent="pass") as front:
            caller = await front.connect()
            caller.send(case.sent)
            head = await asyncio.wait_for(caller.head(), WAIT_S)
            if isinstance(case.outcome, int):
                assert head.split(b" ")[1] == b"%d" % case.outcome
                assert b"\r\nConnection: close\r\n" in head
                assert not requests
            else:
                assert head.startswith(b"HTTP/1.1 200 ")
                assert requests == [case.outcome]

    uvloop.run(main())


@pytest.mark.parametrize("case", ANSWERS, ids=_ids)
def test_an_answer_is_refused_or_goes_on_as_exactly_these_bytes(case: Case) -> None:
    """Refused means: the client gets our 502 and nothing of it."""

    async def main() -> None:
        talk = scripted_server(lambda _, writer: writer.write(case.sent), then_close=True)
        async with talk as port, balancer(port, stickiness="none", traceparent="pass") as front:
            caller = await front.connect()
            caller.send(case.request)
            if case.outcome == CUT:
                with pytest.raises(ConnectionResetError):
                    await caller.rest(WAIT_S)
            elif isinstance(case.outcome, int):
                assert (await asyncio.wait_for(caller.head(), WAIT_S)).startswith(b"HTTP/1.1 %d " % case.outcome)
            else:
                assert isinstance(case.outcome, bytes)
                expected = case.outcome
                assert await asyncio.wait_for(caller.reader.readexactly(len(expected)), WAIT_S) == expected
                if b"\r\nConnection: close" in expected:
                    assert await caller.rest(WAIT_S) == b""

    uvloop.run(main())


def test_the_corpus_is_large_and_says_nothing_twice() -> None:
    """Names tell the cases apart in a report."""
    assert len({case.name for case in REQUESTS}) == len(REQUESTS)
    assert len({case.name for case in ANSWERS}) == len(ANSWERS)
    assert len(REQUESTS) + len(ANSWERS) >= 150
