"""The framing of chunks, read in whatever pieces they come."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from lb.chunks import MOST_LINE_BYTES, BadChunk, Chunks

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def fed(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """Return the body, whether it has ended, and what came behind it.  Raises BadChunk."""
    chunks, passed, rest = Chunks(), b"", b""
    for piece in pieces:
        passed += chunks.feed(piece)
        rest += chunks.rest
    body, ended = decoded(passed)
    assert ended is chunks.ended
    return body, ended, rest


def decoded(passed: bytes) -> tuple[bytes, bool]:
    """Return the body in chunks that must have no extensions and no trailer fields, and whether it has ended."""
    body, begun = b"", b""
    while passed:
        line, _, passed = passed.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9A-Fa-f]+", line), line
        size = int(line, 16)
        if not size:
            assert passed in (b"", b"\r\n")
            return body, passed == b"\r\n"
        body, begun, passed = body + passed[:size], passed[size : size + 2], passed[size + 2 :]
        assert b"\r\n".startswith(begun)
    return body, False


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (b"", False, b"")),
        (b"0\r\n\r\n", (b"", True, b"")),
        (b"00\r\n\r\n", (b"", True, b"")),
        (b"3\r\nabc\r\n0\r\n\r\n", (b"abc", True, b"")),
        (b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nmore", (b"abc0123456789", True, b"more")),
        (b'3;a;b=c;d="\\e"\r\nabc\r\n0;x\r\n\r\n', (b"abc", True, b"")),
        (b"3 ;a\r\nabc\r\n0\r\n\r\n", (b"abc", True, b"")),
        (b"0\r\nX: y\r\nZ:\r\n\r\n", (b"", True, b"")),
        (b"3\r\nab", (b"ab", False, b"")),
        (b"3\r\nabc\r", (b"abc", False, b"")),
        (b"3\r\n\r\n\r\r\n0\r\n\r\n", (b"\r\n\r", True, b"")),
    ],
)
def test_a_body_is_what_its_chunks_hold(data: bytes, expected: tuple[bytes, bool, bytes]) -> None:
    """However they are cut: all at once, byte by byte."""
    assert fed(data) == expected
    assert fed(*(bytes([byte]) for byte in data)) == expected


def test_what_can_pass_as_it_came_is_not_copied() -> None:
    """Only what an extension, a trailer field or an unfinished line is in is put together anew."""
    whole = b"5\r\nhello\r\n0\r\n\r\n"
    assert Chunks().feed(whole) is whole
    chunks = Chunks()
    for piece in (b"400\r\n" + bytes(100), bytes(500), bytes(1024 - 600) + b"\r\n1\r\nx\r", b"\n"):
        assert chunks.feed(piece) is piece
    assert Chunks().feed(b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\nmore") == whole
    assert Chunks().feed(b"5\r\nhello\r\n0") == b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    "data",
    [
        *(b"\r\n", b"g\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"1_0\r\n"),
        *(b"3\r\nabcd\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\nabc\r\n", b"3\r\nabc\r\r\n", b"3\r\nabcX\n"),
        *(b"1234567890abcdef\r\n", b"1;\0\r\na\r\n", b"1;a\nb\r\na\r\n", b"1;a\rb\r\na\r\n", b"\xef\xbc\x91\r\na\r\n"),
        *(b"0\r\nno field\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\nZ: a\r\n\r\n"),
        b"1;" + b"a" * MOST_LINE_BYTES + b"\r\na\r\n",
        b"1;" + b"a" * MOST_LINE_BYTES,
        b"0\r\n" + b"X: y\r\n" * (MOST_LINE_BYTES // 6 + 1) + b"\r\n",
    ],
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    """However it is cut."""
    with pytest.raises(BadChunk):
        fed(data)
    with pytest.raises(BadChunk):
        fed(*(bytes([byte]) for byte in data))


BYTES = (b"0", b"1", b"3", b"a", b"00", b"\r\n", b"\n", b"\r", b";", b"x", b"abc", b" ", b"\t", b"-", b"\xff", b"\0")
PIECE = st.sampled_from([*BYTES, b"X: y"])


@given(pieces=st.lists(PIECE, max_size=14), cut=st.integers(0, 40))
def test_a_body_is_what_another_reader_finds(pieces: list[bytes], cut: int) -> None:
    """What we take llhttp takes as well, to the same body; and two pieces make what one makes."""
    data = b"".join(pieces)
    loop = asyncio.new_event_loop()
    try:
        body, ended, rest = fed(data)
    except BadChunk:
        with pytest.raises(BadChunk):
            fed(data[:cut], data[cut:])
        return
    finally:
        loop.close()
    assert fed(data[:cut], data[cut:]) == (body, ended, rest)
    parser = HttpResponseParser(BaseProtocol(loop), loop, 2**16, read_until_eof=True, auto_decompress=False)
    try:
        messages, _, _ = parser.feed_data(HEAD + data[: len(data) - len(rest)])
    except HttpProcessingError:
        assert not ended, "llhttp sees some faults sooner, but what is whole here is right there"
        return
    stream = messages[0][1]
    assert b"".join(stream._buffer) == body
    assert stream.is_eof() is ended
