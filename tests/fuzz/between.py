"""Harnesses of what processes of a cluster say to each other, and of what operators write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
import msgpack
import redis.connection
from pydantic import ValidationError

from cluster import handoff, redis_address
from cluster.config import Config
from cluster.config_file import ConfigError, parse, written
from cluster.ends import By, End
from cluster.lines import LineSplitter
from cluster.member import BadRecord, Drain, NodeRecord
from cluster.redis_address import Server
from node import wire
from node.environ import environ_of
from node.parts import BadEntry, Delta, Part, Position
from node.pieces import answers_in, count_in, handshake_of, sockets_in
from node.plain import NotPortable, check_plain
from node.redis_socket import RedisSocket
from node.roster import Attendance, Seat
from node.state_values import BadState, WrongKind, change_from, decoded
from node.subscriber import Subscriber
from node.survey import Survey
from tests.fuzz.harness import Harness, cuts
from tests.fuzz.web import parsed_request


def check_handoff(data: bytes) -> None:
    """A packet of the handoff socket is refused, or is exactly what its message is written as.

    A report of ends may say more than this version understands: what it understands is read back alike.
    """
    try:
        message = handoff.message_in(data)
    except handoff.BadPacket as exc:
        assert str(exc)
        return
    if isinstance(message, handoff.Closed):
        assert handoff.message_in(message.to_bytes()) == message
    else:
        assert message.to_bytes() == data


def check_record(data: bytes) -> None:
    """A node's record, or an order to drain, is bad, or survives the way through Redis."""
    for kind in (NodeRecord, Drain):
        try:
            found = kind.from_json(data)
        except BadRecord as exc:
            assert len(str(exc)) < 500
        else:
            assert kind.from_json(found.to_json()) == found


def check_configuration(data: bytes) -> None:
    """A file is a list of mistakes with their lines, or a configuration that is read back alike."""
    try:
        config = parse(data.decode("utf-8", "replace"), "c", {"A": "1"})
    except ConfigError as exc:
        assert exc.problems
        assert all(problem.startswith("c:") for problem in exc.problems)
        return
    assert parse(written(config), "c", {}) == config


def check_redis_url(data: bytes) -> None:
    """A URL that the configuration lets pass is read, and as redis-py reads it where that knows the scheme."""
    url = data.decode("utf-8", "replace")
    try:
        url = Config.model_validate({"redis": url}).redis
    except ValidationError:
        return
    if "://" not in url or "ssl_" in url:
        return
    found = redis_address.parse(url)
    assert found.servers
    assert all(0 <= server.port < 65536 and (server.host or server.path) for server in found.servers)
    if url.startswith(("redis://", "rediss://")) and "%" not in url and "[" not in url and url.isascii():
        theirs = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
        [server] = found.servers
        assert (server.host.lower(), server.port) == (theirs["host"], theirs.get("port", 6379))
        assert found.database == theirs.get("db", 0)
        assert found.password == theirs.get("password", "")
        assert found.username == theirs.get("username", "")


def check_wire(data: bytes) -> None:
    """A message of the bus is bad, or is what is written of it; the same of every piece of an answer."""
    try:
        envelope = wire.decode(data)
    except wire.BadWire as exc:
        assert len(str(exc)) < 500
        return
    again = wire.encode(*envelope)
    assert wire.is_from(again, envelope.origin)
    assert repr(wire.decode(again)) == repr(envelope)
    if isinstance(envelope.content, wire.Answer):
        _check_survey(envelope.content)


def _check_survey(answer: wire.Answer) -> None:
    readers: tuple[Callable[[Any], Any], ...] = (sockets_in, count_in, answers_in, wire.as_lists)
    for read in readers:
        survey = Survey(2, {0}, read)
        survey.answered(answer.name, answer.value, answer.error)
        assert survey.is_complete is False or survey.is_counted


def check_presence(data: bytes) -> None:
    """What another node says of its users is refused, or is what is written of it, and can be taken over."""
    try:
        delta = Delta.from_json(data)
    except BadEntry as exc:
        assert len(str(exc)) < 500
    else:
        assert Delta.from_json(delta.to_json()) == delta
        _take_over(delta)
    try:
        position = Position.from_text(data.decode("utf-8", "surrogateescape"))
    except BadEntry as exc:
        assert len(str(exc)) < 500
    else:
        assert Position.from_text(str(position)) == position


def _take_over(delta: Delta) -> None:
    attendance = Attendance(1.0, lambda: None)
    part = Part(Seat(delta.node, delta.incarnation, 1), attendance)
    part.begin()
    part.start(Position(delta.at.base, delta.before))
    part.hear(delta)
    part.read(delta.put.items())
    list(part.complete())
    assert len(part) == sum(len(attendance.devices_of(user)) for user in attendance.roster)
    list(part.erase())
    assert not attendance.roster


def check_state(data: bytes) -> None:
    """A change of the shared state, and a value in it, is understood or refused."""
    for read in (change_from, decoded):
        try:
            read("key", data)
        except (BadState, WrongKind) as exc:
            assert len(str(exc)) < 500


def check_moved(data: bytes) -> None:
    """Whatever an application keeps in a session is plain, or it is said where it is not."""
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return
    try:
        check_plain(value, "session")
    except NotPortable as exc:
        assert str(exc)
        return
    assert repr(msgpack.unpackb(msgpack.packb(value), strict_map_key=False)) == repr(value)


def check_head(data: bytes) -> None:
    """The head of every request that was accepted can be shown to the application, here and on other nodes."""
    message = parsed_request(data)
    if message is None:
        return
    version = message.version
    lines = [f"{message.method} {message.path} HTTP/{version[0]}.{version[1]}".encode("utf-8", "surrogateescape")]
    head = b"\r\n".join((*lines, *(b"%b: %b" % pair for pair in message.raw_headers), b"", b""))

    async def main() -> None:
        environ = environ_of(head, "192.0.2.1")
        assert environ["REQUEST_METHOD"] == message.method
        assert environ["REMOTE_ADDR"] == "192.0.2.1"

    asyncio.run(main())
    handshake = handshake_of(head, "192.0.2.1")
    assert handshake.headers.keys() == {name.lower().decode(errors="replace") for name, _ in message.raw_headers}


def check_redis(data: bytes) -> None:
    """Whatever a Redis answers, in whatever pieces, is understood, passed over, or ends the connection."""
    if set(data) & set(b"%~|"):
        return  # RESP3, which we do not ask for: hiredis has no error of its own for a map whose key is a map
    replies = _replies([data])

    async def main() -> None:
        messages, lost = _hear([data])
        # Of nonsense, hiredis makes one thing or another as it is cut.
        for pieces in (each for each in cuts(data) if _replies(each) == replies):
            other, other_lost = _hear(pieces)
            # What came together with the reason to end is heard all the same.
            assert (repr(messages[: len(other)]), lost) == (repr(other), other_lost)

    asyncio.run(main())


def _replies(pieces: list[bytes]) -> str:
    reader, replies = hiredis.Reader(), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
    except hiredis.ProtocolError as exc:
        replies.append(exc)
    return repr(replies)


def _hear(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
    messages: list[tuple[bytes, bytes]] = []
    link = RedisSocket(Server("redis", 6379))

    async def dial() -> RedisSocket:
        return link

    subscriber = Subscriber(b"ear", dial, lambda *message: messages.append(message), lambda: None)
    subscriber.want(b"room")
    subscriber._open(link)
    for piece in pieces:
        if not link.lost.done():
            link.data_received(piece)
    return messages, link.lost.done()


def check_lines(data: bytes) -> None:
    """However a child's output is cut, its lines are the same."""
    found = []
    for pieces in cuts(data):
        splitter = LineSplitter(50)
        found.append([line for piece in pieces for line in splitter.feed(piece)] + splitter.rest())
    assert all(lines == found[0] for lines in found)


_MESSAGES = (
    handoff.Handoff(7, 9, "a=b", b"GET / HTTP/1.1\r\n\r\n"),
    handoff.Taken(7),
    handoff.Refused(7, handoff.LEAVING),
    handoff.Closed((End(1), End(2, 1001, By.NODE, 300, 400), End(3, 4000, By.CLIENT))),
)
_RECORD = NodeRecord(name="n3000", host="a", port=1, incarnation="x")
_ORIGIN = b"12345678"
_CONTENTS = (
    wire.Emit("/", ("room", (1, b"x")), b'2["e"]', (b"x",), ("sid",), ("other",), volatile=True),
    wire.Ask("fetch", ("/", None), 7, "n1"),
    wire.Answer(7, "n1", (False, (0, 1), 3)),
    wire.Answer(7, "n1", (True, (0,), (("s", "/", "n", ("r",), {}, "a", b"GET /?x HTTP/1.1\r\nA: b"),))),
    wire.Answer(7, "n1", (False, (1,), (("s", False, 1), ("t",)))),
)
_DELTA = Delta("n1", "i", Position(1, 3), 2, {"s": {"user": "u", "since": 1.5}}, ("t",))
_DEEP = 900

HARNESSES = (
    Harness(
        "handoff",
        check_handoff,
        ("cluster.handoff", "cluster.ends"),
        (
            b"H",
            b"T",
            b"R",
            b"C",
            b"\x81\0\0\0",
            b"\x82\0\0\0",
            b"\x83\0\0\0",
            b"\0\3\xe9\2",
            b"\0",
            b"\0\0\0\7",
            b"\0\3",
            b"\0\0\0\2",
            b"ab",
            b"\xff",
        ),
        tuple(message.to_bytes() for message in _MESSAGES),
    ),
    Harness(
        "record",
        check_record,
        ("cluster.member",),
        (
            b'{"name":"n1"',
            b',"host":"a"',
            b',"port":1',
            b',"incarnation":"x"',
            b',"state":"ready"',
            b',"since":1',
            b"}",
            b',"drain_s":',
            b',"close_per_s":',
            b"1e400",
            b"NaN",
            b"-1",
            b"true",
            b'"\\ud800"',
            b"[",
            b"]",
            b"null",
        ),
        (
            _RECORD.to_json().encode(),
            Drain(since=1, drain_s=2, close_per_s=3).to_json().encode(),
            b'{"name":' + b"[" * _DEEP + b"]" * _DEEP + b"}",
        ),
    ),
    Harness(
        "configuration",
        check_configuration,
        ("cluster.config_file", "cluster.config", "cluster.relations", "cluster.config_words"),
        (
            b"lb:\n",
            b"nodes:\n",
            b"  listen: ",
            b"  workers: 2\n",
            b"  local: 3\n",
            b"redis: none\n",
            b"${A}",
            b"${B:-2}",
            b"$${",
            b"&a ",
            b"*a",
            b"- ",
            b"[",
            b"]",
            b"{",
            b"}",
            b"? ",
            b"!!int ",
            b"0.0.0.0:1\n",
            b"'",
            b"|\n",
            b"<<: ",
            b"# ",
        ),
        (
            # Explicit types that the text is not of.
            b"lb: {workers: !!int , max_connections: !!bool x, listen: !!timestamp x}",
            b"cluster: a\nlb:\n  listen: 127.0.0.1:${A}\n  workers: 2\nnodes: {local: 1, static: ['http://a:1']}\n",
            b"redis: redis+sentinel://u:p@a:1,b:2/0/x\nlb: &a\n  balance: ip_hash\n",
        ),
    ),
    Harness(
        "redis url",
        check_redis_url,
        ("cluster.redis_address", "cluster.config"),
        (
            b"redis://",
            b"rediss://",
            b"unix://",
            b"redis+sentinel://",
            b"redis+cluster://",
            b"user:pw@",
            b"a",
            b":6379",
            b"[::1]",
            b"/",
            b"0",
            b"?db=1",
            b"&",
            b"client_name=x",
            b",",
            b"%40",
            b"@",
            b":",
            b"service",
        ),
        (
            b"redis://u:p@a:1/2?db=3",
            b"unix://u:p@/tmp/x@y?db=1",
            b"redis+sentinel://a:1,[::1]:2/3/svc",
            b"redis+cluster://a,b:7/0",
            b"redis://a:0",
            b"redis://:pass[word@a",
            b"redis+sentinel://u:p@a/0/x@y",
            b"redis://a?db=4&db=3",
        ),
    ),
    Harness(
        "bus",
        check_wire,
        ("node.wire", "node.survey", "node.pieces"),
        (
            b"\x95\1\3\xc4\x08",
            _ORIGIN,
            b"\0",
            b"\1",
            b"\2",
            b"\x91",
            b"\x92",
            b"\x80",
            b"\xa1/",
            b"\xc0",
            b"\xc4\1x",
            b"\xc2",
            b"\xc3",
            b"\xcf" + b"\xff" * 8,
            b"\xc7\0\xff",
            b"\xd6\xff\0\0\0\0",
        ),
        (
            *(wire.encode(_ORIGIN, 1, 2, content) for content in _CONTENTS),
            # Nested more deeply than Python follows, wherever we show it or look into it.
            b"\x91" * 1000 + b"\xc0",
            wire.encode(_ORIGIN, 1, 2, _CONTENTS[0])[:-20] + b"\x91" * 1000 + b"\xc0",
            b"\x98\1\1\xc4\x08" + _ORIGIN + b"\1\2\xa1/" + b"\x91" * 1000 + b"\xa1r\xc4\1x",
            b"\x99\1\3\xc4\x08" + _ORIGIN + b"\1\2\7\xa1n" + b"\x91" * 1000 + b"\xc0\xa0",
        ),
    ),
    Harness(
        "presence",
        check_presence,
        ("node.parts", "node.roster"),
        (
            b'[1,"n","i",',
            b"1,",
            b"3,",
            b"2,",
            b'{"s":',
            b'{"user":"u","since":1}',
            b"}",
            b'["t"]',
            b"]",
            b"[",
            b"null",
            b'"\\ud800"',
            b" ",
            b"1",
            b"9" * 30,
        ),
        (_DELTA.to_json(), b"1 2", b"[" + b"[" * _DEEP + b"]" * _DEEP + b',"n","i",1,2,3,{},[]]'),
    ),
    Harness(
        "state",
        check_state,
        ("node.state_values",),
        (b'[1,"set",null]\n', b'[1,"deleted","f"]', b"\n", b"\0", b"{", b"}", b'"a":1', b"[", b"]", b"NaN", b"2"),
        (
            b'[1,"set",null]\n{"a":1}',
            b'[1,"deleted","f"]\n',
            b'[1,"set",null]\n\0bytes',
            b"[1," + b"[" * _DEEP + b"]" * _DEEP + b",null]\n",
        ),
    ),
    Harness(
        "moved session",
        check_moved,
        ("node.plain",),
        (
            b"\x91",
            b"\x81",
            b"\xa1a",
            b"\xc4\1a",
            b"\xc0",
            b"\1",
            b"\xcf" + b"\xff" * 8,
            b"\xcb" + bytes(8),
            b"\xd6\xff" + bytes(4),
        ),
        (b"\x81\xa1a\x92\1\xc0", b"\x91" * 1000 + b"\xc0"),
    ),
    Harness(
        "head of a request",
        check_head,
        ("node.environ", "node.pieces"),
        (
            b"GET ",
            b"POST ",
            b"/",
            b"?a=b",
            b"%ff",
            b"[",
            b"//",
            b"http://x:99999/",
            b" HTTP/1.1\r\n",
            b"Host: a\r\n",
            b"Content-Length: 2\r\n",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"X: \xff\r\n",
            b"\r\n",
            b"x-forwarded-proto: ",
        ),
        (
            b"GET /socket.io/?EIO=4&a=%ff HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"GET //a:b/ HTTP/1.1\r\nHost: [\r\nX: \xff\r\nX: 2\r\n\r\n",
        ),
    ),
    Harness(
        "redis",
        check_redis,
        ("node.redis_socket", "node.subscriber"),
        (
            b"*3\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$7\r\nmessage\r\n",
            b"$9\r\nsubscribe\r\n",
            b"$3\r\near\r\n",
            b"$4\r\nroom\r\n",
            b"$1\r\nx\r\n",
            b":1\r\n",
            b"+PONG\r\n",
            b"-ERR\r\n",
            b"$-1\r\n",
            b"*1\r\n",
            b"*2\r\n",
            b"\r\n",
            b"$4\r\npong\r\n",
        ),
        (
            b"*3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$1\r\nx\r\n",
            # No server of Redis' says any of these.
            b"*0\r\n",
            b"*1\r\n$7\r\nmessage\r\n",
            b"*1\r\n$9\r\nsubscribe\r\n",
            b"*2\r\n*0\r\n$1\r\nx\r\n",
            b"*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n:1\r\n",
            b"*3\r\n$9\r\nsubscribe\r\n*1\r\n:1\r\n:1\r\n",
        ),
    ),
    Harness(
        "lines",
        check_lines,
        ("cluster.lines",),
        (b"\n", b"\r", b"a" * 30, b"\xc3\xa9", b"\xff"),
        (b"a\nb\r\n" + b"c" * 60,),
    ),
)
