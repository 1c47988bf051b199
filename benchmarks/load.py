"""The load generator, a process of its own: WebSocket echo round trips, idle connections, or handshakes.

    python -m benchmarks.load echo --port P --pid B --connections 100 --size 32 --seconds 5
    python -m benchmarks.load idle --port P --pid B --connections 1000
    python -m benchmarks.load handshakes --port P --pid B --connections 50 --handshakes 5000

It reads the CPU time or the memory of the process B and its descendants itself, exactly over its own measuring window,
and prints one JSON object.  A node behind the balancer B is named with --node-pid: it is no part of B, whoever started
it.  Every connection has one message in flight; each message differs from the one before it and must come back byte for
byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from benchmarks.churn import churn
from benchmarks.client import Connection, Tally, open_all, percentile, upgrade_request
from benchmarks.measure import (
    BenchmarkError,
    Memory,
    allow_descriptors,
    balancer_of,
    cpu_s,
    family,
    memory,
    new_event_loop,
)
from benchmarks.results import EchoResult, HandshakeResult, IdleResult

DRAIN_S = 3.0
SETTLE_S = 1.0
TICK_S = 0.001


async def echo(options: argparse.Namespace) -> EchoResult:
    """Round trips on every connection; measured for `seconds`, after `warmup` seconds that are not."""
    tally = Tally(closed_loop=not options.rate)
    connections = await _open(options, tally, options.size)
    async with asyncio.TaskGroup() as group:
        pacing = group.create_task(_pace(tally, connections, options.rate))
        await asyncio.sleep(options.warmup)
        pids = balancer_of(options.pid, options.node_pid)
        cpu_before, own_before, started = cpu_s(pids), time.process_time(), time.perf_counter()
        tally.recording = True
        await asyncio.sleep(options.seconds)
        tally.recording, tally.closed_loop = False, False
        used_s, seconds = cpu_s(pids) - cpu_before, time.perf_counter() - started
        own_s = time.process_time() - own_before
        pacing.cancel()
    lost = await _drained(tally)
    for connection in connections:
        connection.close()
    times = sorted(tally.latencies_s)
    return EchoResult(
        round_trips=tally.round_trips,
        seconds=seconds,
        lost=lost,
        mismatched=tally.mismatched,
        cpu_us=used_s / max(1, tally.round_trips) * 1e6,
        p50_us=percentile(times, 50) * 1e6,
        p99_us=percentile(times, 99) * 1e6,
        generator_cpu_percent=own_s / seconds * 100,
    )


async def idle(options: argparse.Namespace) -> IdleResult:
    """Open connections that stay silent, and see what they cost."""
    before, node_before = _memories(options)
    connections = await _open(options, Tally(closed_loop=False), size=16)
    await asyncio.sleep(SETTLE_S)
    after, node_after = _memories(options)
    lost = sum(connection.is_closed for connection in connections)
    for connection in connections:
        connection.close()
    return IdleResult(
        connections=options.connections,
        lost=lost,
        pss_kib_before=before.pss_kib,
        rss_kib_before=before.rss_kib,
        pss_kib_per_connection=(after.pss_kib - before.pss_kib) / options.connections,
        rss_kib_per_connection=(after.rss_kib - before.rss_kib) / options.connections,
        node_pss_kib_per_connection=(node_after.pss_kib - node_before.pss_kib) / options.connections,
    )


def _memories(options: argparse.Namespace) -> tuple[Memory, Memory]:
    node = family(options.node_pid) if options.node_pid else []
    return memory(balancer_of(options.pid, options.node_pid)), memory(node)


async def handshakes(options: argparse.Namespace) -> HandshakeResult:
    """Open and close WebSockets, `connections` of them at a time."""
    balancer = balancer_of(options.pid, options.node_pid)
    node = family(options.node_pid) if options.node_pid else []
    before, node_before = cpu_s(balancer), cpu_s(node)
    own_before, started = time.process_time(), time.perf_counter()
    done = await churn(options.port, options.path, options.handshakes, options.connections)
    seconds, own_s = time.perf_counter() - started, time.process_time() - own_before
    us_for_each = 1e6 / max(1, len(done.waits_s))
    waits = sorted(done.waits_s)
    return HandshakeResult(
        handshakes=len(waits),
        failed=done.failed,
        seconds=seconds,
        balancer_cpu_us=(cpu_s(balancer) - before) * us_for_each,
        node_cpu_us=(cpu_s(node) - node_before) * us_for_each,
        p50_us=percentile(waits, 50) * 1e6,
        p99_us=percentile(waits, 99) * 1e6,
        generator_cpu_percent=own_s / seconds * 100,
    )


async def _open(options: argparse.Namespace, tally: Tally, size: int) -> list[Connection]:
    request = upgrade_request(options.path)
    return await open_all(options.port, options.connections, lambda number: Connection(number, tally, size, request))


async def _pace(tally: Tally, connections: list[Connection], rate: float) -> None:
    """Send the first message on every connection, or (open loop) `rate` messages a second on those that are free."""
    if not rate:
        for connection in connections:
            connection.send()
        return
    tally.idle.extend(connections)
    started, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - started) * rate) - sent
        for _ in range(min(due, len(tally.idle))):
            tally.idle.popleft().send()
            sent += 1
        await asyncio.sleep(TICK_S)


async def _drained(tally: Tally) -> int:
    """Wait for what is still in flight; return how many messages never came back."""
    tally.at_rest.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            if tally.in_flight:
                await tally.at_rest.wait()
    return tally.in_flight


_MODES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, EchoResult | IdleResult | HandshakeResult]]] = {
    "echo": echo,
    "idle": idle,
    "handshakes": handshakes,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description="WebSocket load generator")
    parser.add_argument("mode", choices=_MODES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="whose CPU time or memory is read")
    parser.add_argument("--node-pid", type=int, help="the node behind it, which is no part of it")
    parser.add_argument("--path", default="/")
    parser.add_argument("--handshakes", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args(arguments)
    try:
        allow_descriptors(options.connections + 50)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(_MODES[options.mode](options))
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
