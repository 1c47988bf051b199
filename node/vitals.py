"""What a node measures of itself: memory, CPU, the event loop's lag, uptime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from cluster.usage import Usage

TICK_S = 0.05
"""How often the event loop is asked whether it is on time."""


@dataclass(frozen=True)
class Vitals:
    """One measurement; `cpu_percent` (of one core) and `loop_lag_ms` (the longest) are since the one before."""

    memory_bytes: int
    cpu_percent: float
    loop_lag_ms: float
    uptime_s: float


class LagMeter:
    """Measures how late the event loop runs what is due: what a client waits on top of everything else."""

    def __init__(self) -> None:
        self._samplers: list[Sampler] = []

    def sampler(self) -> Sampler:
        """Return a new series of measurements, independent of all others."""
        sampler = Sampler()
        self._samplers.append(sampler)
        return sampler

    async def run(self) -> None:
        """Measure, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            late_s = max(0.0, loop.time() - due)
            for sampler in self._samplers:
                sampler.longest_s = max(sampler.longest_s, late_s)


class Sampler:
    """A series of measurements of this process."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.longest_s = 0.0
        self._clock = clock
        self._usage = Usage()
        self._started = self._at = clock()
        self._cpu_s = self._usage.cpu_seconds()

    def sample(self) -> Vitals:
        """Measure, and begin the next interval."""
        now, cpu_s = self._clock(), self._usage.cpu_seconds()
        elapsed_s = now - self._at
        vitals = Vitals(
            memory_bytes=self._usage.memory_bytes(),
            cpu_percent=round(100 * (cpu_s - self._cpu_s) / elapsed_s, 1) if elapsed_s else 0.0,
            loop_lag_ms=round(1000 * self.longest_s, 2),
            uptime_s=round(now - self._started, 3),
        )
        self._at, self._cpu_s, self.longest_s = now, cpu_s, 0.0
        return vitals
