"""What does it cost to read a client's WebSocket message?  `python benchmarks/reading.py`

Our reader, as a channel uses it, beside the compiled one of aiohttp (which is not strict enough, see node/reader.py).
In microseconds of CPU time per message, without a socket: one message in each read, and twenty.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    # In place of this directory, where `import http` would find our http.py.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

from node.channel import Channel, ChannelLimits

MESSAGES = 100_000
SIZES = (32, 100, 1000, 20_000)


class Count:
    """Gets messages, and does nothing with them."""

    def received(self, data: str | bytes) -> None:
        """The call is what costs."""

    def closed(self, code: int, reason: str) -> None:
        """The end of the benchmark."""


class Queue(WebSocketDataQueue):
    """The same for aiohttp's reader."""

    def __init__(self) -> None:
        self._receiver = Count()

    def feed_data(self, data: object, size: int) -> None:
        self._receiver.received(data[1])  # type: ignore[index]


def frame(size: int) -> bytes:
    """Return a masked text frame."""
    mask = os.urandom(4)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + mask + bytes(ord("x") ^ mask[at % 4] for at in range(size))


def cost(feed: Callable[[bytes], object], data: bytes, count: int) -> float:
    """Return the microseconds per message when `data` holds `count` of them."""
    rounds = max(1, MESSAGES // count // (1 + len(data) // count // 2000))
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds):
            feed(data)
        best = min(best, time.process_time() - began)
    return best / rounds / count * 1e6


async def main() -> None:
    """Measure, and print a table."""
    print(f"{'bytes':>7} {'in a read':>9} {'ours':>7} {'aiohttp':>8}   µs per message")
    for size in SIZES:
        for count in (1, 20):
            data = frame(size) * count
            ours = cost(Channel(Count(), ChannelLimits()).data_received, data, count)
            theirs = cost(WebSocketReader(Queue(), 1_000_000, False, True).feed_data, data, count)
            print(f"{size:>7} {count:>9} {ours:>7.2f} {theirs:>8.2f}")


if __name__ == "__main__":
    asyncio.run(main())
