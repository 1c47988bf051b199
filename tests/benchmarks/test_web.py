"""What `benchmarks/http.py` asks with tells good answers and bodies from others; its backend reads any pieces."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from benchmarks.peers import Peer
from benchmarks.web import load
from benchmarks.web.backend import ANSWER, BODY, PATTERN
from benchmarks.web.load import CHUNKED, DOWNLOAD, LENGTH, MIB, UPLOAD
from benchmarks.web.peers import backend

Answer = Callable[[bytes], bytes]


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Peer]:
    with backend(tmp_path) as peer:
        yield peer


class Lying(asyncio.Protocol):
    """Answers each request with what `answer` makes of its head."""

    def __init__(self, answer: Answer, opened: list[asyncio.Transport]) -> None:
        self._answer = answer
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened.append(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer(data))


@contextmanager
def lying(answer: Answer) -> Iterator[int]:
    """Run such a server in a thread of its own; the port that it has."""
    loop = asyncio.new_event_loop()
    opened: list[asyncio.Transport] = []
    server = loop.run_until_complete(loop.create_server(lambda: Lying(answer, opened), "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for transport in opened:
            transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(server.wait_closed())
        loop.close()


def found(capsys: pytest.CaptureFixture[str], mode: str, port: int, *more: str) -> dict[str, Any]:
    arguments = [mode, "--port", str(port), "--pid", str(os.getpid()), "--connections", "2", "--seconds", "0.1"]
    assert load.main([*arguments, "--warmup", "0.1", "--mib", "1", *more]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_answer_has_the_hundred_bytes_that_it_promises() -> None:
    """So that the budget is about what it says."""
    assert len(BODY) == 100
    assert b"\r\nContent-Length: 100\r\n" in ANSWER
    json.loads(BODY)


def test_good_answers_are_counted_and_a_cookie_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    """As a browser does it, so that a balancer reads its cookie rather than set it again and again."""
    seen: list[bytes] = []

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return ANSWER.replace(b"\r\nVary", b"\r\nSet-Cookie: node=a1; Path=/; HttpOnly\r\nVary")

    with lying(answer) as port:
        result = found(capsys, "requests", port)
    assert result["failed"] == 0
    assert result["requests"] > 0
    assert b"Cookie" not in seen[0]
    assert b"\r\nCookie: node=a1\r\n" in seen[-1]


@pytest.mark.parametrize(
    "answer",
    [ANSWER.replace(b"small", b"SMALL"), ANSWER.replace(b"200 OK", b"502 No"), ANSWER + b"x"],
    ids=["changed", "another status", "too long"],
)
def test_a_wrong_answer_counts_as_failed(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """And the connection on which it came is not used again."""
    with lying(lambda _: answer) as port:
        result = found(capsys, "requests", port)
    assert (result["requests"], result["failed"]) == (0, 2)


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
@pytest.mark.parametrize("direction", [DOWNLOAD, UPLOAD])
def test_a_long_body_arrives_whole(
    direction: str, framing: str, behind: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either way, however it is framed, and read at whatever pace."""
    for more in ([], ["--mib-per-s", "20"]):
        result = found(capsys, "stream", behind.port, "--direction", direction, "--framing", framing, *more)
        assert (result["mib"], result["fault"]) == (1, "")
        assert result["rss_kib_peak"] >= result["rss_kib_before"] > 0


def _stream(body: bytes, promised: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (promised, body)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (_stream(PATTERN[1:] + PATTERN[:1], len(PATTERN)), "changed within the 262295 bytes from 0 on"),
        (_stream(PATTERN[:100], 100), f"100 of {MIB} bytes came"),
        (_stream(PATTERN + PATTERN[1:], 2 * len(PATTERN) - 1), "changed within the 262295 bytes from 262295 on"),
        (b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", "status 502"),
        (b"nothing of HTTP\r\n\r\n", "BadStatusLine: nothing of HTTP"),
    ],
    ids=["changed", "short", "changed later", "refused", "not HTTP"],
)
def test_a_body_that_is_not_the_one_asked_for_is_told(
    answer: bytes, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what came instead."""
    with lying(lambda _: answer) as port:
        assert found(capsys, "stream", port)["fault"].strip() == fault


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"Content-Length: 6\r\n\r\n" + PATTERN[:6], b"6 whole\n"),
        (b"Content-Length: 6\r\n\r\n" + PATTERN[1:7], b"6 changed\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\n\0\1\2\3\r\n2\r\n\4\5\r\n0\r\n\r\n", b"6 whole\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\n\0\1\2\3\r\n2\r\n\5\4\r\n0\r\n\r\n", b"6 changed\n"),
    ],
)
def test_the_backend_reads_uploads_in_any_pieces_and_says_whether_they_are_whole(
    body: bytes, verdict: bytes, behind: Peer
) -> None:
    """Byte by byte, and the next request on the same connection is answered."""
    with closing(socket.create_connection(("127.0.0.1", behind.port), 10)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /upload HTTP/1.1\r\n" + body:
            client.sendall(bytes([byte]))
        answers = client.makefile("rb")
        assert [answers.readline() for _ in range(4)][3] == verdict
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert answers.read(len(ANSWER)) == ANSWER


def test_a_proxy_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In one line, with status 2."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        assert load.main(["requests", "--port", port, "--pid", str(os.getpid())]) == 2
    assert "Connect" in capsys.readouterr().err
