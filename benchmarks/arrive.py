"""WebSockets that come one after the other, say one message, hear it again and go: what newcomers meet meanwhile."""

from __future__ import annotations

import asyncio
import time

from benchmarks.frames import client_frame, echoed

ARRIVAL_TIMEOUT_S = 30.0
MOST_REASONS = 5

_HELLO = b"hello"


class Arrivals:
    """Counts how they fared; `waits_s` runs from the connect to the 101."""

    def __init__(self, port: int, request: bytes, tasks: asyncio.TaskGroup) -> None:
        self._port, self._request, self._tasks = port, request, tasks
        self.count = self.refused = self.cut = self.rejected = self.broken = self.timed_out = 0
        self.waits_s: list[float] = []
        self.reasons: list[str] = []

    async def run(self, rate: float) -> None:
        """Let `rate` of them come each second, however those before them fare.  Never returns."""
        if not rate:
            await asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        while True:
            for _ in range(self.count, int((time.perf_counter() - started) * rate)):
                self.count += 1
                self._tasks.create_task(self._arrive())
            await asyncio.sleep(min(0.05, 1 / rate))

    async def _arrive(self) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(ARRIVAL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    await self._visit(reader, writer, started)
                finally:
                    writer.transport.abort()
        except ConnectionRefusedError as exc:
            self.refused += 1
            self._note(str(exc))
        except TimeoutError:
            self.timed_out += 1
            self._note(f"nothing within {ARRIVAL_TIMEOUT_S:g} s")
        except OSError as exc:
            self.cut += 1
            self._note(f"{type(exc).__name__} before an answer: {exc}")

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, started: float) -> None:
        writer.write(self._request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError(f"closed after {exc.partial!r}") from None
        if not head.startswith(b"HTTP/1.1 101"):
            self.rejected += 1
            self._note(f"answered with {head.split(maxsplit=2)[1].decode()}")
            return
        self.waits_s.append(time.perf_counter() - started)
        writer.write(client_frame(_HELLO))
        try:
            echo = await reader.readexactly(len(echoed(_HELLO)))
        except (asyncio.IncompleteReadError, OSError) as exc:
            self.broken += 1
            self._note(f"lost after its 101: {exc}")
            return
        if echo != echoed(_HELLO):
            self.broken += 1
            self._note(f"heard {echo!r} instead of its echo")

    def _note(self, reason: str) -> None:
        if len(self.reasons) < MOST_REASONS:
            self.reasons.append(reason)
