"""Log lines: a fixed phrase plus fields, as text for people or as JSON for machines, on standard error.

A call gives the fields through `extra`:  `log.info("node ready", extra={"node": "n3000", "port": 3000})`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

FOLLOW = "FLOTILLA_LOG"
"""Environment variable with the path of a file: a process of a stack follows it whenever it gets SIGHUP."""

ACCESS = "access"
"""The logger of access lines.  `log.access` switches it on or off, whatever `log.level` is."""

_encoded = json.JSONEncoder(default=str, separators=(",", ":")).encode  # json.dumps would make one for each line

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Line(logging.LogRecord):
    """A record with nothing but a phrase and its `fields`: half of what `log.info` costs is to find out who called it,
    and to tell its own facts from those that were given."""

    def __init__(self, logger: str, phrase: str, fields: Mapping[str, object]) -> None:
        super().__init__(logger, logging.INFO, "", 0, phrase, None, None)
        self.fields = fields


class Stream(Protocol):
    """What log lines are written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def set_up(
    process: str,
    level: str = "info",
    form: Literal["text", "json"] = "text",
    stream: Stream | None = None,
    *,
    access: bool = False,
) -> None:
    """Send all log records of this process to `stream`, or else to standard error.

    `process` names it in each JSON line.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(process, form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _switch_access(on=access)
    # A supervisor that died takes our standard error with it; that is no reason to fail in the middle of a message.
    logging.raiseExceptions = False


def follow(file: Path) -> None:
    """Take over the level and the form that `file` holds now (what `share` wrote)."""
    wanted = json.loads(file.read_text(encoding="ascii"))
    root = logging.getLogger()
    root.setLevel(wanted["level"].upper())
    _switch_access(on=wanted["access"])
    for handler in root.handlers:
        if isinstance(handler.formatter, _Text | _Json):
            handler.setFormatter(_formatter(handler.formatter.process, wanted["form"]))


def share(level: str, form: str, *, access: bool = False) -> str:
    """Return the text of a file for `follow`."""
    return json.dumps({"level": level, "form": form, "access": access})


def _switch_access(*, on: bool) -> None:
    logging.getLogger(ACCESS).setLevel(logging.INFO if on else logging.CRITICAL + 1)


def _formatter(process: str, form: str) -> logging.Formatter:
    return _Json(process) if form == "json" else _Text(process)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    if isinstance(record, Line):
        return record.fields
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _Text(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process
        self._second = 0
        self._time = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, time.strftime("%H:%M:%S", time.localtime(second))
        at = f"{self._time}.{int(record.msecs):03d}"
        fields = "".join([f" {key}={_shown(value)}" for key, value in _fields(record).items()])
        line = f"{at} {record.levelname.lower():7} {_one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": record.created,
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoded(line)


def _one_line(text: str) -> str:
    # Libraries put what a peer sent into the phrase itself.
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _shown(value: object) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    # What a peer sent must not break out of its line.
    return text if text.isprintable() and " " not in text and text else repr(text)
