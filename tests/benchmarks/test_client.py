"""What every client of the load generators does first: the handshake, whatever the pieces in which the answer comes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from benchmarks.client import Client, open_all, upgrade_request
from benchmarks.measure import BenchmarkError
from tests.support.waiting import eventually

AGREED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Hearer(Client):
    """Keeps what comes behind the head."""

    def __init__(self, number: int) -> None:
        super().__init__(upgrade_request("/"))
        self.all = b""

    def heard(self, data: bytes) -> None:
        self.all += data


def opened(pieces: list[bytes]) -> Hearer:
    """Open one to a server that says these pieces, one by one, and closes once the client has all that is for it."""
    total = b"".join(pieces)

    async def main() -> Hearer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert await reader.readuntil(b"\r\n\r\n") == upgrade_request("/")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            (one,) = await open_all(server.sockets[0].getsockname()[1], 1, Hearer)
            await eventually(lambda: one.is_closed)
        assert one.all == total.partition(b"\r\n\r\n")[2]
        return one

    return asyncio.run(main())


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_head_in_pieces_opens_and_what_is_behind_it_is_heard(step: int) -> None:
    """A message may come in one piece with the end of the head."""
    said = AGREED + b"message" * 3
    assert opened([said[at : at + step] for at in range(0, len(said), step)]).all == b"message" * 3


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"HTTP/1.1 403 Forbidden\r\n\r\n", id="refused"),
        pytest.param(AGREED[:-2], id="cut short"),
        pytest.param(b"", id="closed at once"),
    ],
)
def test_anything_else_is_told_with_what_came(said: bytes) -> None:
    """The user sees why no connection could be opened."""
    with pytest.raises(BenchmarkError) as failed:
        opened([said])
    assert f"closed during the handshake, after {said!r}" in str(failed.value)
