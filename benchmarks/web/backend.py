"""A cheap HTTP/1.1 server to put behind a proxy: always the same 100 bytes, or a stream of any length.

    python -m benchmarks.web.backend PORT

    GET /...                                     100 bytes
    GET /stream?bytes=N[&chunked=1]              N bytes of `PATTERN`, as fast as they are taken
    POST /upload[?mib_per_s=R]                   reads the body, at most so fast, and answers its length and
                                                 whether it was `PATTERN`: "100 whole", "100 changed"

It believes whatever a proxy sends; it runs until it is told to end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs

from benchmarks.measure import new_event_loop

BODY = b'{"id": 4711, "name": "a small answer", "items": [1, 2, 3], "text": "'.ljust(97, b"x") + b'"}\n'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n\r\n" + BODY
)
PATTERN = bytes(range(251)) * 1045
"""What streams consist of, over and over: about 256 KiB.  251 is prime: a piece that is lost or doubled shows."""

_TWICE = PATTERN * 2
_MIB = 1024 * 1024
_STREAM_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n{framing}\r\n\r\n"


class Backend(asyncio.Protocol):
    """One connection: one request after the other, none of them pipelined behind a body."""

    def __init__(self) -> None:
        self._pending = b""
        self._upload: Upload | None = None
        self._download: Download | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._download = None

    def data_received(self, data: bytes) -> None:
        if self._upload is not None:
            self._upload.feed(data)
            return
        data = self._pending + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head, data = data[:end], data[end + 4 :]
            if head.startswith(b"GET /stream"):
                self._download = Download(self._transport, head.decode("latin-1"))
                self._download.go_on()
            elif head.startswith(b"POST "):
                self._upload = Upload(self._transport, head.decode("latin-1").lower(), self._uploaded)
                self._pending = b""
                self._upload.feed(data)
                return
            else:
                self._transport.write(ANSWER)
        self._pending = data

    def pause_writing(self) -> None:
        if self._download is not None:
            self._download.is_paused = True

    def resume_writing(self) -> None:
        if self._download is not None:
            self._download.is_paused = False
            self._download.go_on()

    def _uploaded(self, size: int, is_whole: bool) -> None:
        self._upload = None
        answer = b"%d %s\n" % (size, b"whole" if is_whole else b"changed")
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


class Download:
    """An answer under way."""

    def __init__(self, transport: asyncio.Transport, head: str) -> None:
        asked = _query(head)
        self.is_paused = False
        self._transport = transport
        self._left = int(asked["bytes"])
        self._is_chunked = "chunked" in asked
        framing = "Transfer-Encoding: chunked" if self._is_chunked else f"Content-Length: {self._left}"
        transport.write(_STREAM_HEAD.format(framing=framing).encode())

    def go_on(self) -> None:
        """Write until the transport has enough for now."""
        while self._left and not self.is_paused:
            piece = PATTERN[: self._left]
            self._left -= len(piece)
            if self._is_chunked:
                self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                if not self._left:
                    self._transport.write(b"0\r\n\r\n")
            else:
                self._transport.write(piece)


class Upload:
    """A request's body under way; `ended` is called with its length, and with whether it was what was to be sent."""

    def __init__(self, transport: asyncio.Transport, head: str, ended: Callable[[int, bool], None]) -> None:
        self._transport = transport
        self._ended = ended
        self._bytes_per_s = float(_query(head).get("mib_per_s", 0)) * _MIB
        self._began = time.perf_counter()
        self._size = 0
        self._is_whole = True
        self._is_chunked = "transfer-encoding:" in head
        self._left = 0 if self._is_chunked else int(head.partition("content-length:")[2].split()[0])
        """Of the body, or of the chunk."""
        self._line = b""
        self._had_last_chunk = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body, and put off the one after it as long as the rate asks for."""
        if self._is_chunked:
            self._feed_chunks(data)
        else:
            self._take(data)
            if not self._left:
                self._ended(self._size, self._is_whole)
        if self._bytes_per_s:
            early_s = self._began + self._size / self._bytes_per_s - time.perf_counter()
            if early_s > 0.001:
                self._transport.pause_reading()
                asyncio.get_running_loop().call_later(early_s, self._transport.resume_reading)

    def _take(self, content: bytes) -> None:
        offset = self._size % len(PATTERN)
        self._is_whole &= content == _TWICE[offset : offset + len(content)]
        self._size += len(content)
        self._left -= len(content)

    def _feed_chunks(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._take(data[at : at + step])
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                self._had_line(self._line.strip())
                self._line = b""

    def _had_line(self, line: bytes) -> None:
        # A chunk's size, the end of a chunk, or what ends the trailers, of which there are none.
        if line:
            self._left = int(line, 16)
            self._had_last_chunk = not self._left
        elif self._had_last_chunk:
            self._ended(self._size, self._is_whole)


def _query(head: str) -> dict[str, str]:
    target = head.split(" ", 2)[1]
    return {name: values[0] for name, values in parse_qs(target.partition("?")[2]).items()}


async def serve(port: int) -> None:
    """Serve on this port of loopback for ever.  Raises OSError if it is taken."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
