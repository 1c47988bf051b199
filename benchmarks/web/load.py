"""What asks the proxies, a process of its own: many small requests, or one long body.

    python -m benchmarks.web.load requests --port P --pid B --connections 64 --seconds 5
    python -m benchmarks.web.load stream --port P --pid B --direction download --framing chunked --mib 1024

It reads the CPU time and the memory of the process B and its descendants itself, exactly over its own measuring window,
and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import cast

from benchmarks.client import percentile
from benchmarks.measure import BenchmarkError, allow_descriptors, cpu_s, family, new_event_loop, peak_kib, reset_peaks
from benchmarks.web.backend import BODY, PATTERN
from benchmarks.web.results import RequestResult, StreamResult

DOWNLOAD, UPLOAD = "download", "upload"
LENGTH, CHUNKED = "length", "chunked"
MIB = 1024 * 1024
SILENCE_S = 30.0
"""A peer that says nothing for so long says nothing more."""

_REQUEST = (
    "GET /api/items/4711?fields=name,text HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Referer: http://127.0.0.1:{port}/items\r\nConnection: keep-alive\r\n{cookie}\r\n"
)


@dataclass
class Tally:
    """What all connections count together."""

    recording: bool = False
    requests: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection of a browser: the next request once the answer to the one before is there."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._tally = tally
        self._port = port
        self._request = _REQUEST.format(port=port, cookie="").encode()
        self._answer = b""
        self._sent_at = 0.0
        self._is_done = False

    def close(self) -> None:
        self._is_done = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._tally.failed += 1

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, ended, body = self._answer.partition(b"\r\n\r\n")
        if not ended or len(body) < len(BODY):
            return
        if body != BODY or not head.startswith(b"HTTP/1.1 200 "):
            self._transport.abort()  # which counts as failed
            return
        if b"et-cookie:" in head.lower():
            self._keep_cookie(head.decode("latin-1"))
        if self._tally.recording:
            self._tally.requests += 1
            self._tally.latencies_s.append(time.perf_counter() - self._sent_at)
        self._answer = b""
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _keep_cookie(self, head: str) -> None:
        for line in head.split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "set-cookie":
                cookie = f"Cookie: {value.partition(';')[0].strip()}\r\n"
                self._request = _REQUEST.format(port=self._port, cookie=cookie).encode()


async def requests(options: argparse.Namespace) -> RequestResult:
    """Requests on every connection; measured for `seconds`, after `warmup` seconds that are not."""
    loop, tally, pids = asyncio.get_running_loop(), Tally(), family(options.pid)
    clients = []
    for _ in range(options.connections):
        _, client = await loop.create_connection(lambda: Client(options.port, tally), "127.0.0.1", options.port)
        clients.append(client)
    await asyncio.sleep(options.warmup)
    cpu_before, own_before, started = cpu_s(pids), time.process_time(), time.perf_counter()
    tally.recording = True
    await asyncio.sleep(options.seconds)
    tally.recording = False
    used_s, seconds = cpu_s(pids) - cpu_before, time.perf_counter() - started
    own_s = time.process_time() - own_before
    for client in clients:
        client.close()
    times = sorted(tally.latencies_s)
    return RequestResult(
        requests=tally.requests,
        failed=tally.failed,
        seconds=seconds,
        cpu_us=used_s / max(1, tally.requests) * 1e6,
        p50_us=percentile(times, 50) * 1e6,
        p99_us=percentile(times, 99) * 1e6,
        generator_cpu_percent=own_s / seconds * 100,
    )


def stream(options: argparse.Namespace) -> StreamResult:
    """Carry one body through the proxy; whoever reads it takes at most `mib_per_s`, or as much as comes (0)."""
    pids = family(options.pid)
    reset_peaks(pids)
    rss_before, cpu_before, started = peak_kib(pids), cpu_s(pids), time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", options.port, timeout=SILENCE_S)) as connection:
        try:
            fault = (_download if options.direction == DOWNLOAD else _upload)(connection, options)
        except (OSError, http.client.HTTPException) as exc:
            fault = f"{type(exc).__name__}: {exc}"
    seconds = time.perf_counter() - started
    return StreamResult(
        mib=options.mib,
        fault=fault,
        seconds=seconds,
        cpu_us_per_mib=(cpu_s(pids) - cpu_before) / options.mib * 1e6,
        rss_kib_before=rss_before,
        # The kernel's counters are right to a few pages only: a peak that was just reset may seem to fall.
        rss_kib_peak=max(rss_before, peak_kib(pids)),
    )


def _download(connection: http.client.HTTPConnection, options: argparse.Namespace) -> str:
    size, began = options.mib * MIB, time.perf_counter()
    chunked = "&chunked=1" if options.framing == CHUNKED else ""
    connection.request("GET", f"/stream?bytes={size}{chunked}")
    answer = connection.getresponse()
    if answer.status != 200:
        return f"status {answer.status}"
    had = 0
    while piece := answer.read(len(PATTERN)):
        if not PATTERN.startswith(piece):
            return f"changed within the {len(PATTERN)} bytes from {had} on"
        had += len(piece)
        if options.mib_per_s:
            time.sleep(max(0.0, began + had / MIB / options.mib_per_s - time.perf_counter()))
    return "" if had == size else f"{had} of {size} bytes came"


def _upload(connection: http.client.HTTPConnection, options: argparse.Namespace) -> str:
    size = options.mib * MIB
    framing = {"Transfer-Encoding": "chunked"} if options.framing == CHUNKED else {"Content-Length": str(size)}
    path = f"/upload?mib_per_s={options.mib_per_s:g}"
    connection.request("POST", path, _pieces(size), framing, encode_chunked=options.framing == CHUNKED)
    answer = connection.getresponse()
    text = answer.read(200).decode("latin-1").strip()
    return "" if (answer.status, text) == (200, f"{size} whole") else f"status {answer.status}: {text}"


def _pieces(size: int) -> Iterator[bytes]:
    whole, rest = divmod(size, len(PATTERN))
    for _ in range(whole):
        yield PATTERN
    if rest:
        yield PATTERN[:rest]


def _requests(options: argparse.Namespace) -> RequestResult:
    allow_descriptors(options.connections + 50)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(requests(options))


_MODES: dict[str, Callable[[argparse.Namespace], RequestResult | StreamResult]] = {
    "requests": _requests,
    "stream": stream,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.web.load", description="HTTP load generator")
    parser.add_argument("mode", choices=_MODES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="whose CPU time and memory are read")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--direction", choices=(DOWNLOAD, UPLOAD), default=DOWNLOAD)
    parser.add_argument("--framing", choices=(LENGTH, CHUNKED), default=LENGTH)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--mib-per-s", type=float, default=0.0)
    options = parser.parse_args(arguments)
    try:
        result = _MODES[options.mode](options)
    except (BenchmarkError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
