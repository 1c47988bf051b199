"""The loggers that python-socketio's `logger` and `engineio_logger` options stand for."""

from __future__ import annotations

import logging
from typing import Any


def logger_for(name: str, given: Any) -> Any:
    """Return the logger for python-socketio: left alone it would add a handler of its own beside ours."""
    if not isinstance(given, bool):
        return given
    logger = logging.getLogger(name)
    if logger.level == logging.NOTSET:
        # At INFO it writes a line for each packet.
        logger.setLevel(logging.INFO if given else logging.WARNING)
    return logger
