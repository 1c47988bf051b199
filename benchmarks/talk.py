"""WebSockets that talk all the time, a process of its own, and others that arrive meanwhile.

    python -m benchmarks.talk --port P --path /echo --connections 5000 --rate 2500 --arrivals 20

It says `open` when all talk, goes on until its standard input ends, waits for the last echoes, and prints one JSON
object.  Every message carries its connection's number and its own, so that what is lost, doubled, changed or out of
order is seen, and the time at which it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from benchmarks.arrive import Arrivals
from benchmarks.client import Client, open_all, percentile, upgrade_request
from benchmarks.frames import client_frame, echoed
from benchmarks.measure import BenchmarkError, allow_descriptors, new_event_loop
from benchmarks.results import TalkResult

DRAIN_S = 15.0
TICK_S = 0.01

_MESSAGE = struct.Struct("!IIQ")
"""Connection, number of the message on it, time.monotonic_ns."""

_FRAME_HEAD = client_frame(bytes(_MESSAGE.size))[: -_MESSAGE.size]
_ECHO_HEAD = echoed(bytes(_MESSAGE.size))[: -_MESSAGE.size]
_ECHO = struct.Struct(f"!{len(_ECHO_HEAD)}s{_MESSAGE.format[1:]}")


@dataclass
class Tally:
    """What all talkers count together."""

    sent: int = 0
    duplicated: int = 0
    reordered: int = 0
    changed: int = 0
    slowest_echo_ns: int = 0
    awaited: int = 0
    """Echoes that are still to come."""
    at_rest: asyncio.Event = field(default_factory=asyncio.Event)


class Talker(Client):
    """One connection: numbered messages out, the same ones back in."""

    def __init__(self, number: int, tally: Tally, request: bytes) -> None:
        super().__init__(request)
        self.missing: set[int] = set()
        """Messages that were overtaken by a later one."""
        self.sent = self.expected = 0
        self._number, self._tally = number, tally
        self._pending = b""

    @property
    def lost(self) -> int:
        return len(self.missing) + self.sent - self.expected

    def send(self) -> None:
        if self.is_closed:
            return
        self._transport.write(_FRAME_HEAD + _MESSAGE.pack(self._number, self.sent, time.monotonic_ns()))
        self.sent += 1
        self._tally.sent += 1
        self._tally.awaited += 1

    def heard(self, data: bytes) -> None:
        data = self._pending + data
        whole = len(data) - len(data) % _ECHO.size
        self._pending = data[whole:]
        for head, number, turn, sent_at_ns in _ECHO.iter_unpack(data[:whole]):
            if head != _ECHO_HEAD or number != self._number or turn >= self.sent:
                # What follows cannot be told apart any more: this connection is over.
                self._tally.changed += 1
                self._transport.abort()
                return
            self._heard(turn, time.monotonic_ns() - sent_at_ns)

    def _heard(self, turn: int, took_ns: int) -> None:
        tally = self._tally
        if turn >= self.expected:
            self.missing.update(range(self.expected, turn))
            self.expected = turn + 1
        elif turn in self.missing:
            self.missing.discard(turn)
            tally.reordered += 1
        else:
            tally.duplicated += 1
            return
        tally.slowest_echo_ns = max(tally.slowest_echo_ns, took_ns)
        tally.awaited -= 1
        if not tally.awaited:
            tally.at_rest.set()


async def talk(options: argparse.Namespace) -> TalkResult:
    """Talk until standard input ends, or for `most_seconds`."""
    tally = Tally()
    request = upgrade_request(options.path)
    talkers = await open_all(options.port, options.connections, lambda number: Talker(number, tally, request))
    print("open", flush=True)
    async with asyncio.TaskGroup() as group:
        arrivals = Arrivals(options.port, request, group)
        jobs = [group.create_task(_pace(talkers, options.rate)), group.create_task(arrivals.run(options.arrivals))]
        with suppress(TimeoutError):
            async with asyncio.timeout(options.most_seconds):
                await _end_of_input()
        for job in jobs:
            job.cancel()
    await _drained(tally)
    for talker in talkers:
        talker.close()
    return result_of(tally, talkers, arrivals)


async def _pace(talkers: list[Talker], rate: float) -> None:
    """Send `rate` messages a second in all, each talker in its turn."""
    started, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - started) * rate)
        for turn in range(sent, due):
            talkers[turn % len(talkers)].send()
        sent = max(sent, due)
        await asyncio.sleep(TICK_S)


async def _end_of_input() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _drained(tally: Tally) -> None:
    tally.at_rest.clear()
    if tally.awaited:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await tally.at_rest.wait()


def result_of(tally: Tally, talkers: list[Talker], arrivals: Arrivals) -> TalkResult:
    waits = sorted(arrivals.waits_s)
    return TalkResult(
        connections=len(talkers),
        sent=tally.sent,
        dropped=sum(talker.is_closed for talker in talkers),
        lost=sum(talker.lost for talker in talkers),
        duplicated=tally.duplicated,
        reordered=tally.reordered,
        changed=tally.changed,
        slowest_echo_s=tally.slowest_echo_ns / 1e9,
        arrived=arrivals.count,
        refused=arrivals.refused,
        cut=arrivals.cut,
        rejected=arrivals.rejected,
        broken=arrivals.broken,
        timed_out=arrivals.timed_out,
        longest_wait_s=max(waits, default=0.0),
        median_wait_s=percentile(waits, 50),
        reasons=tuple(arrivals.reasons),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.talk", description="WebSockets that talk all the time")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=2500.0, help="messages a second in all")
    parser.add_argument("--arrivals", type=float, default=20.0, help="new connections a second")
    parser.add_argument("--most-seconds", type=float, default=600.0)
    options = parser.parse_args(arguments)
    try:
        allow_descriptors(options.connections + 200)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(talk(options))
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
