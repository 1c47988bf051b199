"""The access log of a balancer in the test's own process, as fields."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster import logs
from tests.support.waiting import eventually


class Lines(logging.Handler):
    """The lines of the access log, as fields."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append({"what": record.getMessage(), **logs._fields(record)})

    async def line(self, number: int) -> Mapping[str, Any]:
        """Wait for the line of this number, the first being 1, and return it; it must be the last."""
        await eventually(lambda: len(self.lines) >= number, what=f"{number} lines")
        assert len(self.lines) == number
        return self.lines[-1]


@contextmanager
def access_lines() -> Iterator[Lines]:
    """Switch the access log on, and keep its lines."""
    logger, handler = logging.getLogger(logs.ACCESS), Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
