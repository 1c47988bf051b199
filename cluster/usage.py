"""What this process uses.  Asking needs no free descriptor: who has none left must go on, not fall over a gauge."""

from __future__ import annotations

import time

import psutil


class Usage:
    """Memory and CPU time of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._memory_bytes: int = self._process.memory_info().rss

    def memory_bytes(self) -> int:
        """Return the resident memory; while no file can be opened to look (EMFILE, ENFILE), what it was last."""
        try:
            self._memory_bytes = self._process.memory_info().rss
        except OSError:
            # Whoever could not open something that matters has told.
            return self._memory_bytes
        return self._memory_bytes

    @staticmethod
    def cpu_seconds() -> float:
        """Return the CPU time so far, user and system."""
        return time.process_time()
