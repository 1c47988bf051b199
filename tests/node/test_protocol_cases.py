"""RFC 6455 and 7692 case by case, on the echo endpoint as a user starts it.

The cases are numbered and grouped in the spirit of the Autobahn test suite: what is sent, and what must come back up to
the end of the connection.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nodes import running_node
from tests.support.websockets import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Client,
    Heard,
    client_frame,
    close,
    opened,
    text,
)

LARGEST = 16 * 2**20
MASK = b"\x37\xfa\x21\x3d"  # of RFC 6455 5.7

SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 1000, 65534, 65535, 65536, 65537, 200_000]
CHOPS = [0, 1, 7, 997]


@pytest.fixture(scope="module", params=["false", "true"], ids=["plain", "compression"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run `python -m node --app node.echo:sio`, with compression allowed or not."""
    directory: Path = tmp_path_factory.mktemp("echo")
    config = directory / "config.yaml"
    config.write_text(f"redis: none\nnodes:\n  local: 1\n  compression: {request.param}\n")
    arguments = ["--config", str(config), "--app", "node.echo:sio", "--max-message-bytes", str(LARGEST)]
    with asyncio.Runner() as runner:
        running = running_node(directory, *arguments)
        node = runner.run(running.__aenter__())
        try:
            yield node.port
        finally:
            runner.run(running.__aexit__(None, None, None))
            assert "Traceback" not in node.said()


@dataclass(frozen=True)
class Case:
    """`said`, in pieces of `chop` bytes (0: at once), and the frames that come back before and with the end."""

    said: bytes
    heard: tuple[Heard, ...] = ()
    code: int | None = 1000
    """Of the close frame that ends it; None: one without a code."""
    chop: int = 0

    def run(self, port: int) -> None:
        with opened(port) as client:
            step = self.chop or max(1, len(self.said))
            for at in range(0, len(self.said), step):
                client.say(self.said[at : at + step])
            *heard, last = client.hear_all()
            assert tuple(heard) == self.heard
            assert last.first == FIN | CLOSE
            assert last.code == self.code


def echoed(payload: str | bytes) -> Heard:
    if isinstance(payload, str):
        return Heard(FIN | TEXT, payload.encode())
    return Heard(FIN | BINARY, payload)


def whole(payload: str | bytes) -> bytes:
    heard = echoed(payload)
    return client_frame(heard.first, heard.payload, mask=MASK)


def fragments(first: int, *parts: bytes, between: bytes = b"") -> bytes:
    """Return a message in as many frames as there are parts."""
    frames = []
    for number, part in enumerate(parts):
        fin = FIN if number == len(parts) - 1 else 0
        frames.append(client_frame(fin | (0 if number else first), part, mask=MASK))
    return between.join(frames)


END = close(1000)


MOST_PIECES = 1000
"""Into more than that no message is cut: it takes long and tells nothing more."""


@pytest.mark.parametrize(
    ("size", "chop"), [(size, chop) for size in SIZES for chop in CHOPS if not chop or size // chop <= MOST_PIECES]
)
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_1_messages_of_every_size_come_back(port: int, kind: str, size: int, chop: int) -> None:
    """Whatever the network makes of them."""
    payload: str | bytes = "*" * size if kind == "text" else b"\xfe" * size
    Case(whole(payload) + END, (echoed(payload),), chop=chop).run(port)


@pytest.mark.parametrize("chop", CHOPS)
@pytest.mark.parametrize("payload", [b"", b"Hello", bytes(range(0xF0, 0x100)), b"\xfe" * 125])
def test_2_a_ping_is_answered_with_its_payload(port: int, payload: bytes, chop: int) -> None:
    """RFC 6455 5.5.3."""
    Case(client_frame(FIN | PING, payload) + END, (Heard(FIN | PONG, payload),), chop=chop).run(port)


def test_2_pongs_are_ignored_and_pings_answered_in_order(port: int) -> None:
    """Ten of them, and unsolicited pongs with and without payload."""
    pings = b"".join(client_frame(FIN | PING, b"%d" % number) for number in range(10))
    pongs = client_frame(FIN | PONG) + client_frame(FIN | PONG, b"unsolicited")
    Case(pongs + pings + pongs + END, tuple(Heard(FIN | PONG, b"%d" % number) for number in range(10))).run(port)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_2_a_long_control_frame_is_refused(port: int, opcode: int) -> None:
    """RFC 6455 5.5."""
    Case(client_frame(FIN | opcode, b"\xfe" * 126), code=1002).run(port)


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x30, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
@pytest.mark.parametrize("chop", [0, 1])
def test_3_reserved_bits_are_refused(port: int, opcode: int, bits: int, chop: int) -> None:
    """RFC 6455 5.2; what came before is answered."""
    said = whole("before") + client_frame(FIN | bits | opcode, b"x")
    Case(said, (echoed("before"),), code=1002, chop=chop).run(port)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"reserved opcode payload"])
@pytest.mark.parametrize("before", [b"", whole("before")])
def test_4_reserved_opcodes_are_refused(port: int, opcode: int, payload: bytes, before: bytes) -> None:
    """RFC 6455 5.2."""
    heard = (echoed("before"),) if before else ()
    Case(before + client_frame(FIN | opcode, payload) + whole("behind"), heard, code=1002).run(port)


PING_BETWEEN = client_frame(FIN | PING, b"p")

FRAGMENTED = {
    "ping in two": Case(client_frame(PING, b"a") + client_frame(FIN, b"b"), code=1002),
    "pong in two": Case(client_frame(PONG, b"a") + client_frame(FIN, b"b"), code=1002),
    "close in two": Case(client_frame(CLOSE, b"\x03") + client_frame(FIN, b"\xe8"), code=1002),
    "text in two": Case(fragments(TEXT, b"one", b"two") + END, (echoed("onetwo"),)),
    "binary in two": Case(fragments(BINARY, b"one", b"two") + END, (echoed(b"onetwo"),)),
    "text in five with empty ones": Case(fragments(TEXT, b"", b"a", b"", b"b", b"") + END, (echoed("ab"),)),
    "all empty": Case(fragments(TEXT, b"", b"", b"") + END, (echoed(""),)),
    "ping in between": Case(
        fragments(TEXT, b"a", b"b", b"c", between=PING_BETWEEN) + END,
        (Heard(FIN | PONG, b"p"), Heard(FIN | PONG, b"p"), echoed("abc")),
    ),
    "continuation without a beginning": Case(client_frame(FIN, b"x") + END, code=1002),
    "unfinished continuation without a beginning": Case(client_frame(0, b"x") + END, code=1002),
    "continuation after a whole message": Case(whole("a") + client_frame(FIN, b"x") + END, (echoed("a"),), code=1002),
    "continuation after a message in two": Case(
        fragments(TEXT, b"a", b"b") + client_frame(FIN, b"x"), (echoed("ab"),), code=1002
    ),
    "text inside text": Case(client_frame(TEXT, b"a") + whole("b"), code=1002),
    "binary inside text": Case(client_frame(TEXT, b"a") + whole(b"b"), code=1002),
    "unfinished text inside text": Case(client_frame(TEXT, b"a") + client_frame(TEXT, b"b"), code=1002),
    "close inside text": Case(client_frame(TEXT, b"a") + END),
    "many fragments": Case(fragments(TEXT, *[b"x"] * 5000) + END, (echoed("x" * 5000),)),
}


@pytest.mark.parametrize(
    ("name", "chop"),
    [(name, chop) for name, case in FRAGMENTED.items() for chop in (0, 1) if not chop or len(case.said) <= MOST_PIECES],
)
def test_5_fragments(port: int, name: str, chop: int) -> None:
    """RFC 6455 5.4."""
    case = FRAGMENTED[name]
    Case(case.said, case.heard, case.code, chop).run(port)


VALID = [
    "κόσμε",
    "\x00",
    "\x7f",
    "\x80",
    "߿",
    "ࠀ",
    "￿",
    "\U00010000",
    "\U0010ffff",
    "퟿",
    "",
    "�",
    "Hello-µ@ßöäüàá-UTF-8!!",
]
_INVALID = [
    "80 bf 80bf 80bf80 c020 e020 f020 c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf",
    "fdbfbfbfbf c0af e080af f08080af f8808080af fc80808080af c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf",
    "c080 e08080 f0808080 eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf eda080edb080 edafbfedbfbf",
    "f4908080 fe ff fefeffff",
]
INVALID = [sequence for line in _INVALID for sequence in line.split()]


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("payload", VALID)
def test_6_text_comes_back(port: int, payload: str, chop: int) -> None:
    """Alone, and with a frame for each byte."""
    data = payload.encode()
    parts = [data[at : at + 1] for at in range(len(data))] or [b""]
    said = whole(payload) + fragments(TEXT, *parts, between=PING_BETWEEN) + END
    pongs = (Heard(FIN | PONG, b"p"),) * (len(parts) - 1)
    Case(said, (echoed(payload), *pongs, echoed(payload)), chop=chop).run(port)


@pytest.mark.parametrize("payload", INVALID)
@pytest.mark.parametrize("form", ["whole", "inside", "in bytes"])
def test_6_what_is_not_utf_8_is_refused(port: int, payload: str, form: str) -> None:
    """RFC 6455 8.1, RFC 3629."""
    data = bytes.fromhex(payload)
    if form == "inside":
        data = b"\xce\xba" + data + b"edited"
    said = fragments(TEXT, *(data[at : at + 1] for at in range(len(data)))) if form == "in bytes" else text(data)
    Case(said + END, code=1007).run(port)


def test_6_a_wrong_byte_is_refused_before_the_message_is_complete(port: int) -> None:
    """At once: the rest may never come."""
    with opened(port) as client:
        client.say(client_frame(TEXT, b"\xce\xba") + client_frame(0, b"\xf4\x90"))
        heard = client.hear()
        assert heard is not None
        assert heard.code == 1007


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
@pytest.mark.parametrize("reason", [b"", b"bye", b"*" * 123])
def test_7_a_close_code_comes_back(port: int, code: int, reason: bytes) -> None:
    """RFC 6455 5.5.1."""
    Case(whole("last") + close(code, reason), (echoed("last"),), code=code).run(port)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_7_a_code_that_must_not_be_sent_is_refused(port: int, code: int) -> None:
    """RFC 6455 7.4."""
    Case(close(code), code=1002).run(port)


CLOSED = {
    "no code": Case(close(), code=None),
    "half a code": Case(client_frame(FIN | CLOSE, b"\x03"), code=1002),
    "reason too long": Case(client_frame(FIN | CLOSE, b"\x03\xe8" + b"*" * 124), code=1002),
    "reason not UTF-8": Case(close(1000, b"\xce\xba\xed\xa0\x80"), code=1007),
    "twice": Case(END + close(1001)),
    "ping behind": Case(END + PING_BETWEEN),
    "text behind": Case(END + whole("late")),
    "much behind": Case(END + whole("late" * 60_000)),
    "garbage behind": Case(END + b"\xff" * 10_000),
    "after a ping": Case(PING_BETWEEN + END, (Heard(FIN | PONG, b"p"),)),
    "after much": Case(whole("x" * 256_000) + END, (echoed("x" * 256_000),)),
    "without a mask": Case(client_frame(FIN | TEXT, b"x", mask=None), code=1002),
    "ping without a mask": Case(client_frame(FIN | PING, b"", mask=None), code=1002),
    "length in more bytes than needed": Case(struct.pack("!BBHI", 0x82, 0xFE, 1, 0) + b"x", code=1002),
    "length with the highest bit": Case(struct.pack("!BBQI", 0x82, 0xFF, 1 << 63, 0), code=1002),
    "too large": Case(struct.pack("!BBQI", 0x82, 0xFF, LARGEST + 1, 0), code=1009),
    "too large in two": Case(client_frame(BINARY, b"x") + struct.pack("!BBQI", 0x80, 0xFF, LARGEST, 0), code=1009),
}


@pytest.mark.parametrize("name", CLOSED)
def test_7_the_end(port: int, name: str) -> None:
    """RFC 6455 7."""
    CLOSED[name].run(port)


@pytest.mark.parametrize("kind", [TEXT, BINARY])
@pytest.mark.parametrize("pieces", [1, 256])
def test_9_the_largest_message_comes_back(port: int, kind: int, pieces: int) -> None:
    """16 MiB, whole or in fragments; one byte more is refused."""
    payload = b"*" * LARGEST
    step = LARGEST // pieces
    with opened(port, within_s=60) as client:
        client.say(fragments(kind, *(payload[at : at + step] for at in range(0, LARGEST, step))))
        client.say(END)
        first, last = client.hear_all()
        assert first.first == FIN | kind
        assert first.payload == payload
        assert last.code == 1000


def test_10_many_messages_come_back_in_order(port: int) -> None:
    """Also to a client that says all of them before it listens, and more than any bound on what waits for it."""
    messages = [b"%07d" % number * 100 for number in range(5000)]
    with opened(port, within_s=60) as client:
        _say_while_hearing(client, b"".join(whole(message) for message in messages) + END)
        *heard, last = client.hear_all()
        assert [each.payload for each in heard] == messages
        assert last.code == 1000


def _say_while_hearing(client: Client, data: bytes) -> None:
    client.sock.setblocking(False)
    while data:
        try:
            data = data[client.sock.send(data) :]
        except BlockingIOError:
            try:
                client.unread += client.sock.recv(1 << 20)
            except BlockingIOError:
                continue
    client.sock.settimeout(60)


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("size", [0, 16, 1024, 65536, 1_000_000])
def test_12_compressed_messages(port: int, bits: int, size: int) -> None:
    """RFC 7692: only where both want it, and each message by itself."""
    payload = (b"some text that repeats itself, and again: " * (size // 42 + 1))[:size]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
    offer = f"permessage-deflate; client_max_window_bits; server_max_window_bits={bits}"
    with opened(port, Sec_WebSocket_Extensions=offer) as client:
        agreed = b"permessage-deflate" in client.answer
        for _ in range(3):
            if not agreed:
                client.say(client_frame(FIN | TEXT, payload))
            else:
                half = len(small) // 2
                client.say(client_frame(RSV1 | TEXT, small[:half]) + PING_BETWEEN + client_frame(FIN, small[half:]))
                assert client.hear() == Heard(FIN | PONG, b"p")
            heard = client.hear()
            assert heard is not None
            answer = heard.payload
            if heard.first & RSV1:
                assert agreed
                answer = zlib.decompressobj(-bits).decompress(answer + b"\x00\x00\xff\xff")
            assert answer == payload
        client.say(client_frame(FIN | RSV1 | TEXT, b"\xff" * 9))
        heard = client.hear()
        assert heard is not None
        assert heard.code == (1007 if agreed else 1002)


def test_12_a_bomb_is_refused(port: int) -> None:
    """17 KiB that inflate to one byte too many."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(LARGEST + 1)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with opened(port, Sec_WebSocket_Extensions="permessage-deflate") as client:
        client.say(client_frame(FIN | RSV1 | BINARY, bomb, mask=os.urandom(4)))
        heard = client.hear()
        assert heard is not None
        assert heard.code == (1009 if b"permessage-deflate" in client.answer else 1002)
