"""Harnesses of what comes on a client's WebSocket or in its posts: frames, payloads, Socket.IO packets, JSON."""

from __future__ import annotations

import json
import zlib
from typing import Any, cast

from engineio.payload import Payload
from multidict import CIMultiDict
from socketio.packet import Packet as TheirPacket
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from node import jsons
from node.codec import ACK, CONNECT, DISCONNECT, EVENT, BadPacket, Codec, JsonCodec, Packet, Partial
from node.deflate import Inflated, agree, deflate, inflate
from node.formats import codec_for
from node.message import Message
from node.opening import BadOpening, checked_key
from node.payload import NotAPayload, packets_in
from node.reader import Close, Event, Ping, ProtocolError, Reader
from node.refusal import query_of, refusal_of
from tests.fuzz.harness import Harness, cuts
from tests.support.websockets import client_frame, close, text

MOST = 1000

_Outcome = tuple[list[Event], int]
"""What was read, and the close code with which it was refused, or 0."""


def check_frames(data: bytes) -> None:
    """Frames mean the same however they are cut and whoever goes on reading, and what they mean to another reader."""
    inflates = data[:1] > b"\x7f"
    data = data[1:]
    found = _read([data], inflates=inflates)
    for pieces in cuts(data):
        assert _read(pieces, inflates=inflates) == found
        assert _read(pieces, inflates=inflates, moves=True) == found
    _agrees_with_another(data, found, inflates=inflates)


def _read(pieces: list[bytes], *, inflates: bool, moves: bool = False) -> _Outcome:
    """With `moves`, another reader goes on with what one has read by half."""
    reader, events = Reader(MOST, inflates=inflates), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                events.append(event)
                if moves:
                    reader = Reader(MOST, inflates=inflates, half=reader.half_read())
                if isinstance(event, Close):
                    return events, 0
            if moves:
                reader = Reader(MOST, inflates=inflates, half=reader.half_read())
    except ProtocolError as exc:
        assert exc.reason
        return events, exc.code
    return events, 0


def _agrees_with_another(data: bytes, found: _Outcome, *, inflates: bool) -> None:
    events, code = found
    if code == 1009:
        return  # the other one has no such limit
    if any(isinstance(event, Close) and 1012 <= event.code <= 1014 for event in events):
        return  # IANA's registry has these codes, the other one does not
    theirs, refused = _theirs(data, inflates=inflates)
    if refused:
        # They inflate what has come of a message; we wait for all of it, and pass on the pings between its frames.
        is_early = inflates and refused == 1007
        assert code or is_early, (theirs, refused)
        assert _alike(events[: len(theirs)] if is_early else events, theirs[: len(events)])
    elif code:
        # We look at a header before it is whole.
        assert _alike(events, theirs[: len(events)])
    else:
        assert _alike(events, theirs)


def _alike(ours: list[Event], theirs: list[Event]) -> bool:
    """They know no second deflate stream in a message (RFC 7692 7.2.3.4), and pass it over."""
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, str | bytes) and type(one) is type(other):
            if one[: len(other)] != other:
                return False
        elif one != other:
            return False
    return True


def _theirs(data: bytes, *, inflates: bool) -> tuple[list[Event], int]:
    extensions: list[Extension] = []
    if inflates:
        extension = PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
        extension.accept("permessage-deflate; client_no_context_takeover; server_no_context_takeover")
        extensions = [extension]
    reader = FrameProtocol(client=False, extensions=extensions)
    events: list[Event] = []
    message: list[Any] = []
    reader.receive_bytes(data)
    try:
        for frame in reader.received_frames():
            if frame.opcode is Opcode.PING:
                events.append(Ping(cast(bytes, frame.payload)))
            elif frame.opcode is Opcode.CLOSE:
                code, reason = cast(tuple[int, str], frame.payload)
                events.append(Close(int(code), reason))
                return events, 0
            elif frame.opcode is not Opcode.PONG:
                message.append(frame.payload)
                if frame.message_finished:
                    events.append(message[0][:0].join(message))
                    message = []
    except ParseFailed as exc:
        return events, int(exc.code)
    return events, 0


def check_deflate(data: bytes) -> None:
    """Nothing grows beyond the limit; what inflates is what zlib makes of it; what we deflate comes back."""
    assert inflate(deflate(data), len(data)) == data
    try:
        found = inflate(data, MOST)
    except Inflated as exc:
        assert str(exc)
        return
    assert len(found) <= MOST
    if zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff", MOST + 1) != found:
        # Several streams: zlib ends with the first.
        assert found.startswith(zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff", MOST + 1))


def check_opening(data: bytes) -> None:
    """The head of a handshake is refused as such, or has a key of 16 bytes; what is agreed on was offered."""
    fields = [line.partition(":") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    headers = CIMultiDict((name, value) for name, _, value in fields)
    try:
        assert len(checked_key(headers)) == 24
    except BadOpening as exc:
        assert exc.status in (400, 426)
    offers = headers.getall("Sec-WebSocket-Extensions", [])
    agreed = agree(offers)
    if agreed is not None:
        assert 9 <= agreed.window_bits <= 15
        said = agreed.answer.split("; ")
        assert said[:3] == ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"]
        assert ("server_max_window_bits" in "".join(offers)) == (len(said) == 4) or agreed.window_bits == 15
        theirs = PerMessageDeflate()
        theirs.finalize(agreed.answer)
        assert theirs.server_max_window_bits == agreed.window_bits


def check_payload(data: bytes) -> None:
    """A post is refused, or is the packets that another server reads in it."""
    try:
        found = packets_in(data)
    except NotAPayload:
        return
    if data.startswith(b"d="):
        return  # JSONP, which revision 4 does not have
    payload = Payload()
    payload.max_decode_packets = len(found)
    payload.decode(data.decode())
    theirs = [packet.data if packet.binary else packet.packet_type for packet in payload.packets]
    assert theirs == [each if isinstance(each, bytes) else int(each[0]) for each in found]


def check_query(data: bytes) -> None:
    """Whatever a request's target says, it is served or refused for a reason."""
    query = query_of(data.decode("utf-8", "surrogateescape"))
    for method, is_upgrade in (("GET", True), ("GET", False), ("POST", False)):
        refusal = refusal_of(method, query, is_upgrade, None, ("polling", "websocket"))
        assert refusal is None or json.loads(refusal.body)["code"] == refusal.code
        if refusal is None:
            assert (query["EIO"], query["transport"] == "websocket") == ("4", is_upgrade)


def check_packet(data: bytes) -> None:
    """A packet is bad, or has the shape of its kind, is what another reader finds, and is written back alike."""
    codec = JsonCodec()
    packet = _decoded(codec, data.decode("utf-8", "replace"))
    if packet is None:
        return
    theirs = TheirPacket(encoded_packet=data.decode("utf-8", "replace"))
    for attachment in (b"a", b"b"):
        if theirs.attachment_count > len(theirs.attachments):
            theirs.add_attachment(attachment)
    kind = {5: EVENT, 6: ACK}.get(theirs.packet_type, theirs.packet_type)
    assert (kind, theirs.namespace or "/", theirs.id) == (packet.kind, packet.namespace, packet.id)
    if not _has_placeholder(packet.data):
        assert repr(theirs.data) == repr(packet.data)
    assert _reread(codec, packet) == repr(packet.data)


def _has_placeholder(data: Any) -> bool:
    """Tell whether something is left that another reader takes for an attachment's: it needs no `true`, as we do."""
    if isinstance(data, dict):
        return "_placeholder" in data or any(map(_has_placeholder, data.values()))
    return isinstance(data, list) and any(map(_has_placeholder, data))


def check_msgpack(data: bytes) -> None:
    """The same of packets in msgpack."""
    packet = _decoded(codec_for("msgpack", None), data)
    if packet is not None:
        assert _reread(codec_for("msgpack", None), packet) == repr(packet.data)


def _decoded(codec: Codec, data: str | bytes) -> Packet | None:
    """Return the packet, if `data` announces at most two attachments, and they come."""
    try:
        read = codec.decode(data)
        packet = None if isinstance(read, Partial) else read
        if isinstance(read, Partial):
            assert 0 < read.missing <= 1000
            *_, packet = (read.add(attachment) for attachment in (b"a", b"b")[: read.missing])
    except BadPacket as exc:
        assert str(exc)
        return None
    if packet is None:
        return None
    _check_shape(packet)
    return packet


def _check_shape(packet: Packet) -> None:
    assert packet.namespace[:1] == "/"
    assert packet.id is None or packet.id >= 0
    if packet.kind == EVENT:
        assert isinstance(packet.data[0], str)
    elif packet.kind == ACK:
        assert isinstance(packet.data, list)
        assert packet.id is not None
    elif packet.kind == CONNECT:
        assert packet.data is None or isinstance(packet.data, dict)
    else:
        assert (packet.kind, packet.data) == (DISCONNECT, None)


def _reread(codec: Any, packet: Packet) -> str:
    """Return what stands in the packet if it is written by us and read again."""
    if packet.kind == EVENT:
        message: Message = codec.event(packet.namespace, packet.data, packet.id)
    elif packet.kind == ACK:
        message = codec.ack(packet.namespace, packet.id, packet.data)
    else:
        return repr(packet.data)
    if message.text is None:
        return repr(codec.decode(message.binaries[0]).data)
    read = codec.decode(message.text.decode())
    return repr([read, *(read.add(binary) for binary in message.binaries)][-1].data)


def check_json(data: bytes) -> None:
    """JSON means what it means to the standard library, or is refused as there; and is written back alike."""
    source = data.decode("utf-8", "surrogatepass" if data[:1] == b"[" else "replace") if _is_text(data) else ""
    try:
        found = jsons.loads(source)
    except (ValueError, RecursionError):
        found = None
        try:
            assert max(map(len, json.dumps(json.loads(source)).split("0")), default=0) >= 0
        except (ValueError, RecursionError):
            return
        # Refused by us alone: an integer that is too long.
        assert any(len(digits) > jsons.MOST_DIGITS for digits in _digits_in(source)), source
        return
    assert repr(found) == repr(json.loads(source))
    if "\ud800" not in repr(found):
        assert repr(json.loads(jsons.dumps(found))) == repr(found)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _digits_in(text: str) -> list[str]:
    return "".join(char if char.isdecimal() else " " for char in text).split()


_JSON = (b"[", b"]", b"{", b"}", b'"', b":", b",", b"null", b"true", b"1", b"0.5", b"1e9", b"-0", b"NaN", b"\\ud800")
_MANY_DIGITS = b"1" * 101

HARNESSES = (
    Harness(
        "frames",
        check_frames,
        ("node.reader", "node.deflate"),
        (
            b"\x81",
            b"\x01",
            b"\x80",
            b"\0",
            b"\x82",
            b"\xc1",
            b"\x41",
            b"\xfe\0\x7e",
            b"\x85",
            text("a"),
            text("\u20ac"),
            client_frame(0x01, b"\xe2\x82"),
            client_frame(0x80, b"\xac"),
            client_frame(0xC1, deflate(b"hello")),
            client_frame(0x89, b"p"),
            close(1000, b"x"),
            close(1005),
        ),
        (
            b"\0"
            + text("hello")
            + client_frame(0x01, b"a")
            + client_frame(0x89)
            + client_frame(0x80, b"b")
            + close(1000),
            b"\xff" + client_frame(0xC2, b"\x03\0" + deflate(b"two streams")),
            b"\xff" + client_frame(0xC2, deflate(b"x" * 500)) + client_frame(0x41, deflate(b"y")) + client_frame(0x80),
            b"\xff" + client_frame(0x41, b"\xff\xff") + client_frame(0x89, b"p") + client_frame(0x83),
        ),
    ),
    Harness(
        "deflate",
        check_deflate,
        ("node.deflate",),
        (deflate(b"hello"), b"\0", b"\x03\0", b"\x01\0\0\xff\xff", b"\xff", deflate(bytes(2000))),
        (deflate(b"hello"), b"\x03\0" + deflate(b"b"), deflate(bytes(2000))),
    ),
    Harness(
        "opening",
        check_opening,
        ("node.opening", "node.deflate"),
        (
            b"Upgrade: websocket\n",
            b"Connection: Upgrade\n",
            b"Sec-WebSocket-Version: 13\n",
            b"Sec-WebSocket-Key:dGhlIHNhbXBsZSBub25jZQ==\n",
            b"Sec-WebSocket-Extensions:",
            b"permessage-deflate",
            b"; ",
            b"server_max_window_bits",
            b"client_max_window_bits",
            b"=10",
            b'="8"',
            b", ",
        ),
        (
            b"Upgrade:websocket\nConnection:Upgrade\nSec-WebSocket-Version:13\nSec-WebSocket-Key:dGhlIHNhbXBsZSBub25jZQ==\n"
            b"Sec-WebSocket-Extensions:permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ),
    ),
    Harness(
        "payload",
        check_payload,
        ("node.payload",),
        (b"4", b"2", b"b", b"\x1e", b"aGk=", b"=", b"\xc3\xa9", b"6"),
        (b"4a\x1ebaGk=\x1e2probe",),
    ),
    Harness(
        "query",
        check_query,
        ("node.refusal",),
        (b"/?", b"&", b"=", b"EIO=4", b"transport=websocket", b"transport=polling", b"sid=", b"%34", b"+", b"#"),
        (b"/socket.io/?EIO=4&transport=polling&t=x", b"/?transport=websocket&EIO=%34"),
    ),
    Harness(
        "packet",
        check_packet,
        ("node.codec", "node.jsons"),
        (b"0", b"1", b"2", b"3", b"51-", b"62-", b"/a,", b"12", b'["e"', b'{"_placeholder":true,"num":0}', *_JSON),
        (
            b'2["e",1]',
            b'52-/a?x,7["e",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]',
            b'0/a,{"token":1}',
            b"1/a",
            b"31[]",
            # A comma behind no namespace.
            b"1,",
            b'2,["e"]',
            b'52-["e",{"_placeholder":{"_placeholder":true,"num":0},"num":1},{"_placeholder":true,"num":1}]',
        ),
    ),
    Harness(
        "msgpack packet",
        check_msgpack,
        ("node.formats",),
        (
            b"\x84",
            b"\xa4type",
            b"\xa4data",
            b"\xa3nsp",
            b"\xa2id",
            b"\xa1/",
            b"\x02",
            b"\x92",
            b"\xa1e",
            b"\xc4\1a",
            b"\xc0",
        ),
        (
            b"\x84\xa4type\x02\xa4data\x92\xa1e\xc4\x01a\xa3nsp\xa1/\xa2id\x05",
            b"\x83\xa4type\x00\xa3nsp\xa1/\xa4data\x81\xa1a\x01",
        ),
    ),
    Harness(
        "json",
        check_json,
        ("node.jsons",),
        (*_JSON, _MANY_DIGITS, b"9" * 19, b"18446744073709551616", b" ", b"\xc3\xa9", b"\\u00e9", b"Infinity"),
        (b'{"a":[1,2.5,null,"\\ud83d\\ude00"]}', b"[" + _MANY_DIGITS + b"]", b"18446744073709551616"),
    ),
)
