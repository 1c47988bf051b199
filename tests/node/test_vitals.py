"""What a node measures of itself."""

from __future__ import annotations

import asyncio
import time

from node.vitals import LagMeter, Sampler
from tests.support.waiting import eventually


def test_a_blocked_event_loop_shows_as_lag_in_every_series_once() -> None:
    """Each series has its own longest delay since its own last measurement."""

    async def main() -> None:
        meter = LagMeter()
        one, two = meter.sampler(), meter.sampler()
        running = asyncio.ensure_future(meter.run())
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  (blocking is what is measured)
        await eventually(lambda: one.longest_s > 0.2)
        assert one.sample().loop_lag_ms > 200
        assert one.sample().loop_lag_ms < 200
        assert two.sample().loop_lag_ms > 200
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_cpu_is_of_one_core_since_the_measurement_before() -> None:
    """Time is an argument: the same work over twice the time is half as much."""
    now = [100.0]
    sampler = Sampler(clock=lambda: now[0])
    spent = time.process_time()
    while time.process_time() - spent < 0.2:
        pass
    now[0] += 2.0
    vitals = sampler.sample()
    assert 5 <= vitals.cpu_percent <= 60
    assert vitals.uptime_s == 2.0
    assert vitals.memory_bytes > 2**20
    assert sampler.sample().cpu_percent == 0.0
