"""Where the lines of a whole stack go: one descriptor, each text line with the name of its process in front.

A thread writes them, because the reader of our standard output may be slow, stopped or gone, and must then cost lines
rather than the stack: what waits is bounded in bytes, what does not fit is counted, and the loss is said.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Literal, Self

MOST_WAITING_BYTES = 4 * 1024 * 1024
FLUSH_S = 2.0
_COLOURS = (36, 33, 35, 32, 34, 31)


class Output:
    """Lines to the descriptor `fd`.  Thread-safe, and never blocks its caller."""

    def __init__(
        self,
        fd: int,
        *,
        form: Literal["text", "json"] = "text",
        colour: bool = False,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self.form = form
        self.lost = 0
        """Lines that could not be written since the last one that could."""
        self._fd = fd
        self._colour = colour
        self._most = most_waiting_bytes
        self._width = 0
        self._colours: dict[str, int] = {}
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)

    @classmethod
    def standard(cls, form: Literal["text", "json"]) -> Output:
        """Return the output to this process's standard output; in colour if that is a terminal (and not NO_COLOR)."""
        try:
            fd = sys.stdout.fileno()
            colour = os.isatty(fd) and not os.environ.get("NO_COLOR")
        except (AttributeError, OSError, ValueError):
            # Started with a closed standard output (`>&-`).
            return cls(os.open(os.devnull, os.O_WRONLY), form=form)
        return cls(fd, form=form, colour=colour)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        # Whoever reads us may have stopped: what is not taken by then is lost.
        self._thread.join(FLUSH_S)

    def flush(self) -> None:
        """Wait until everything is written, but no longer than FLUSH_S."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting and not self._writing, FLUSH_S)

    def line(self, process: str, text: str) -> None:
        """Write one line of `process`: as it is if it is JSON and we write JSON, else with its name."""
        self._put((self._as_json(process, text) if self.form == "json" else self._as_text(process, text)) + "\n")

    def plain(self, text: str) -> None:
        """Write `text` as it is."""
        self._put(text + "\n")

    def expect(self, process: str) -> None:
        """Make room for a name, so that the lines of all processes begin in one column."""
        self._width = max(self._width, len(process))
        self._colours.setdefault(process, _COLOURS[len(self._colours) % len(_COLOURS)])

    def stream(self, process: str) -> LineStream:
        """Return a text stream for the log records of this process itself."""
        self.expect(process)
        return LineStream(self, process)

    def _as_text(self, process: str, text: str) -> str:
        name = f"{process:{self._width}} |"
        if self._colour:
            name = f"\x1b[{self._colours.get(process, _COLOURS[0])}m{name}\x1b[0m"
        return f"{name} {text}"

    def _as_json(self, process: str, text: str) -> str:
        if text.startswith("{") and text.endswith("}"):
            return text
        return json.dumps({"at": time.time(), "level": "info", "process": process, "message": text})

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with self._change:
            if self._waiting_bytes + len(data) > self._most:
                self.lost += 1
                return
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._change.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                lines, lost = list(self._waiting), self.lost
                self._waiting.clear()
                self._waiting_bytes = self.lost = 0
                self._writing = True
            if lost:
                lines.append(self._as_text("output", f"{lost} lines were lost: their reader is too slow\n").encode())
            written = self._write(b"".join(lines))
            with self._change:
                self.lost += 0 if written else len(lines)
                self._writing = False
                self._change.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write all of `data`; False if nobody takes it (closed pipe, full disk, terminal gone)."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Somebody who shares our terminal made it non-blocking.
                select.select([], [self._fd], [])
            except OSError:
                return False
        return True


class LineStream:
    """What `logging.StreamHandler` writes to: each line goes to the output under the name of one process."""

    def __init__(self, output: Output, process: str) -> None:
        self._output = output
        self._process = process

    def write(self, text: str) -> None:
        for line in text.splitlines():
            self._output.line(self._process, line)

    def flush(self) -> None:
        """Nothing waits here."""
