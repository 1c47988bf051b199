"""Packets: what the protocol page shows, and nothing that it does not allow."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import socketio.packet
from hypothesis import given
from hypothesis import strategies as st

from node import codec as codec_module
from node.codec import ACK, CONNECT, DISCONNECT, EVENT, BadPacket, JsonCodec, Packet, Partial
from node.formats import ClassCodec, codec_for

CODEC = JsonCodec()

Facts = tuple[int, str, int | None, Any]


def facts(packet: Packet | Partial | None) -> Facts:
    assert isinstance(packet, Packet)
    return packet.kind, packet.namespace, packet.id, packet.data


GOOD: list[tuple[str, Facts]] = [
    ("0", (CONNECT, "/", None, None)),
    ('0{"token":"123"}', (CONNECT, "/", None, {"token": "123"})),
    ("0/admin,", (CONNECT, "/admin", None, None)),
    ("0/admin", (CONNECT, "/admin", None, None)),
    ("0/admin?token=1,", (CONNECT, "/admin", None, None)),
    ('0/admin,{"token":"123"}', (CONNECT, "/admin", None, {"token": "123"})),
    ("1", (DISCONNECT, "/", None, None)),
    ("1/admin,", (DISCONNECT, "/admin", None, None)),
    ('2["foo"]', (EVENT, "/", None, ["foo"])),
    ('212["foo"]', (EVENT, "/", 12, ["foo"])),
    ('20["foo"]', (EVENT, "/", 0, ["foo"])),
    ('2/admin,["bar"]', (EVENT, "/admin", None, ["bar"])),
    ('2/admin,13["bar",{"a":[1.5,null]}]', (EVENT, "/admin", 13, ["bar", {"a": [1.5, None]}])),
    ('2/a[b],1["bar"]', (EVENT, "/a[b]", 1, ["bar"])),
    ("312[]", (ACK, "/", 12, [])),
    ('3/admin,13["bar"]', (ACK, "/admin", 13, ["bar"])),
    ('2 ["foo"]', (EVENT, "/", None, ["foo"])),
    ('2["*"]', (EVENT, "/", None, ["*"])),
    ('50-["foo"]', (EVENT, "/", None, ["foo"])),
    ('2["e",{"_placeholder":true,"num":0}]', (EVENT, "/", None, ["e", {"_placeholder": True, "num": 0}])),
]


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=[text for text, _ in GOOD])
def test_packets_of_the_protocol_page_are_read(text: str, expected: Facts) -> None:
    """Section "Packet encoding", all examples."""
    assert facts(CODEC.decode(text)) == expected


WITH_ATTACHMENTS: list[tuple[str, list[bytes], Facts]] = [
    (
        '51-["baz",{"_placeholder":true,"num":0}]',
        [b"\1\2\3\4"],
        (EVENT, "/", None, ["baz", b"\1\2\3\4"]),
    ),
    (
        '52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
        [b"\1\2", b"\3\4"],
        (EVENT, "/admin", None, ["baz", b"\1\2", b"\3\4"]),
    ),
    ('61-15["bar",{"_placeholder":true,"num":0}]', [b""], (ACK, "/", 15, ["bar", b""])),
    (
        '51-/a,7["deep",{"list":[1,{"x":{"num":0,"_placeholder":true}}]}]',
        [b"x"],
        (EVENT, "/a", 7, ["deep", {"list": [1, {"x": b"x"}]}]),
    ),
    (
        '52-["twice",{"_placeholder":true,"num":1},{"_placeholder":true,"num":1}]',
        [b"unused", b"x"],
        (EVENT, "/", None, ["twice", b"x", b"x"]),
    ),
    (
        '51-["plain",{"_placeholder":false}]',
        [b"x"],
        (EVENT, "/", None, ["plain", {"_placeholder": False}]),
    ),
]


@pytest.mark.parametrize(
    ("text", "attachments", "expected"), WITH_ATTACHMENTS, ids=[each[0] for each in WITH_ATTACHMENTS]
)
def test_attachments_take_their_places(text: str, attachments: list[bytes], expected: Facts) -> None:
    """The packet is there with the last of them."""
    partial = CODEC.decode(text)
    assert isinstance(partial, Partial)
    assert partial.namespace == expected[1]
    *first, last = attachments
    assert [partial.add(each) for each in first] == [None] * len(first)
    assert facts(partial.add(last)) == expected


BAD = [
    "",
    "x",
    "7",
    "9",
    "-",
    "4",
    '4{"message":"x"}',
    "0[]",
    '0"text"',
    '1["payload"]',
    "1{}",
    "2",
    "2{}",
    "2[]",
    "2[1]",
    "2[null]",
    '2[["x"]]',
    '2["foo"',
    '2["foo"]]',
    '2x["foo"]',
    '2²["foo"]',
    '2-1["foo"]',
    '21-["foo"]',
    '2["connect"]',
    '2["disconnect"]',
    '2["connect_error"]',
    '2/admin,["disconnect","x"]',
    "2" + "9" * 21 + '["foo"]',
    "2" + "[" * 100_000,
    '2["x",' + "9" * 101 + "]",
    "3[]",
    "3",
    "31{}",
    '31"x"',
    "31",
    '5["foo"]',
    '5-["foo"]',
    '5x-["foo"]',
    '51-["disconnect"]',
    "51-{}",
    "61-[]",
    f'5{codec_module.MOST_ATTACHMENTS + 1}-["foo"]',
    '599999999999-["foo"]',
    "0/" + "n" * 1000,
    "0/admin,x",
]


@pytest.mark.parametrize("text", BAD, ids=[text[:30] for text in BAD])
def test_what_is_no_packet_of_a_client_is_one_kind_of_error(text: str) -> None:
    """Whatever is wrong with it: nothing else is raised."""
    with pytest.raises(BadPacket):
        CODEC.decode(text)


BAD_ATTACHMENTS: list[tuple[str, list[str | bytes]]] = [
    ('51-["x",{"_placeholder":true,"num":0}]', ["text"]),
    ('51-["x",{"_placeholder":true,"num":1}]', [b"x"]),
    ('51-["x",{"_placeholder":true,"num":-1}]', [b"x"]),
    ('51-["x",{"_placeholder":true,"num":"0"}]', [b"x"]),
    ('51-["x",{"_placeholder":true,"num":true}]', [b"x"]),
    ('51-["x",{"_placeholder":true,"num":0.0}]', [b"x"]),
    ('51-["x",{"_placeholder":true}]', [b"x"]),
    ('50-["x",{"_placeholder":true,"num":0}]', []),
    ('51-["x",' + '{"a":' * 1020 + "1" + "}" * 1020 + "]", [b"x"]),
]


@pytest.mark.parametrize(("text", "attachments"), BAD_ATTACHMENTS, ids=[text[:50] for text, _ in BAD_ATTACHMENTS])
def test_attachments_that_do_not_fit_are_the_same_error(text: str, attachments: list[str | bytes]) -> None:
    """Text in their place, and placeholders for what did not come."""

    def read() -> None:
        partial = CODEC.decode(text)
        assert isinstance(partial, Partial)
        for each in attachments:
            partial.add(each)

    with pytest.raises(BadPacket):
        read()


def test_an_attachment_alone_is_refused() -> None:
    """It was not announced."""
    with pytest.raises(BadPacket, match="not announced"):
        CODEC.decode(b"attachment")


def test_packets_are_written_as_the_protocol_page_shows_them() -> None:
    """Section "Packet encoding"."""
    assert CODEC.connect("/", "s1").text == b'0{"sid":"s1"}'
    assert CODEC.connect("/admin", "s1").text == b'0/admin,{"sid":"s1"}'
    assert CODEC.connect_error("/", {"message": "Not authorized"}).text == b'4{"message":"Not authorized"}'
    assert CODEC.disconnect("/").text == b"1"
    assert CODEC.disconnect("/admin").text == b"1/admin,"
    assert CODEC.disconnect("/", {"why": 1}).text == b'1{"why":1}'
    assert CODEC.event("/", ["foo"]).text == b'2["foo"]'
    assert CODEC.event("/", ["foo"], 12).text == b'212["foo"]'
    assert CODEC.event("/admin", ["bar"]).text == b'2/admin,["bar"]'
    assert CODEC.ack("/", 12, []).text == b"312[]"
    assert CODEC.ack("/admin", 13, ["bar"]).text == b'3/admin,13["bar"]'
    message = CODEC.event("/admin", ["baz", b"\1\2", {"x": (bytearray(b"\3"), memoryview(b"\4"))}], 7)
    assert message.text == (
        b'53-/admin,7["baz",{"_placeholder":true,"num":0},'
        b'{"x":[{"_placeholder":true,"num":1},{"_placeholder":true,"num":2}]}]'
    )
    assert message.binaries == (b"\1\2", b"\3", b"\4")
    message = CODEC.ack("/", 15, ["bar", b"\1"])
    assert (message.text, message.binaries) == (b'61-15["bar",{"_placeholder":true,"num":0}]', (b"\1",))


def test_what_json_cannot_hold_is_a_type_error_of_who_emits() -> None:
    """Also in packets that have no attachments."""
    with pytest.raises(TypeError):
        CODEC.event("/", ["x", object()])
    with pytest.raises(TypeError):
        CODEC.event("/admin", ["x", object()], 1)
    with pytest.raises(TypeError):
        CODEC.ack("/", 1, [{1, 2}])
    with pytest.raises(TypeError):
        CODEC.connect_error("/", {"data": b"bytes"})


def test_a_users_json_module_reads_and_writes_and_never_sees_bytes() -> None:
    """As python-socketio's `json` option; bytes travel apart, also if the module would take them."""

    class Shouting:
        def dumps(self, value: Any, **options: Any) -> str:
            assert options == {"separators": (",", ":")}
            return repr(value).upper()

        def loads(self, text: str) -> Any:
            return ["read", text]

    codec = JsonCodec(Shouting())
    assert codec.event("/", ["a", b"b"]).text == b"51-['A', {'_PLACEHOLDER': TRUE, 'NUM': 0}]"
    assert codec.ack("/", 1, ["a"]).text == b"31['A']"
    assert facts(codec.decode("2[whatever")) == (EVENT, "/", None, ["read", "[whatever"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text(min_size=1, max_size=8).filter(lambda name: name not in codec_module.RESERVED)
namespaces = st.sampled_from(["/", "/a", "/a/b-c", "/é"])
ids = st.none() | st.integers(0, 10**19)


@pytest.mark.parametrize("serializer", ["default", "msgpack"])
@given(names, st.lists(json_values, max_size=3), namespaces, ids)
def test_what_is_written_is_read_back(
    serializer: str, name: str, arguments: list[Any], namespace: str, id_: int | None
) -> None:
    """Events with everything in them; what a placeholder looks like is left out, which no format can tell apart."""
    if serializer == "msgpack" and _has_big_integer([*arguments, id_]):
        return
    codec = codec_for(serializer, None)
    message = codec.event(namespace, [name, *arguments], id_)
    parts: list[str | bytes] = [] if message.text is None else [message.text.decode()]
    first, *attachments = parts + list(message.binaries)
    packet = codec.decode(first)
    if isinstance(packet, Partial):
        *_, last = map(packet.add, attachments)
        assert last is not None
        packet = last
    assert facts(packet) == (EVENT, namespace, id_, [name, *arguments])


def _has_big_integer(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_has_big_integer, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


@given(st.text(st.sampled_from('0123456-/,[]{}":_admintruenull²\ud800')) | st.text())
def test_nothing_but_bad_packet_is_raised(text: str) -> None:
    """Whatever a client makes up."""
    try:
        CODEC.decode(text)
    except BadPacket:
        return


@given(st.binary())
def test_nothing_but_bad_packet_is_raised_by_msgpack_either(data: bytes) -> None:
    """Its own errors are many."""
    try:
        codec_for("msgpack", None).decode(data)
    except BadPacket:
        return


MSGPACK_BAD: list[Any] = [
    {"type": 2, "nsp": "*", "data": ["x"]},
    {"type": 2, "nsp": "admin", "data": ["x"]},
    {"type": 2, "nsp": 7, "data": ["x"]},
    {"type": 2, "nsp": "/" + "n" * 1000, "data": ["x"]},
    {"type": "2", "nsp": "/", "data": ["x"]},
    {"type": True, "nsp": "/", "data": None},
    {"type": 99, "nsp": "/", "data": ["x"]},
    {"type": 4, "nsp": "/", "data": {}},
    {"type": 2, "nsp": "/", "data": ["x"], "id": -1},
    {"type": 2, "nsp": "/", "data": ["x"], "id": True},
    {"type": 2, "nsp": "/", "data": ["disconnect"]},
    {"type": 2, "nsp": "/", "data": {}},
    {"type": 2, "data": ["x"]},
    [1, 2],
    7,
]


@pytest.mark.parametrize("content", MSGPACK_BAD, ids=repr)
def test_a_format_of_ones_own_is_checked_as_the_default_is(content: Any) -> None:
    """Nothing in the rest of the server relies on a serializer's own care."""
    data = msgpack.Packer().pack(content)
    with pytest.raises(BadPacket):
        codec_for("msgpack", None).decode(data)


class Reversed(socketio.packet.Packet):  # type: ignore[misc]
    """A packet class of a user's own: texts backwards."""

    def encode(self) -> Any:
        encoded = super().encode()
        return encoded[::-1] if isinstance(encoded, str) else [encoded[0][::-1], *encoded[1:]]

    def decode(self, encoded_packet: str) -> Any:
        return super().decode(encoded_packet[::-1])


def test_a_users_packet_class_is_used_both_ways() -> None:
    """As python-socketio's `serializer` option, with attachments."""
    codec = codec_for(Reversed, None)
    assert isinstance(codec, ClassCodec)
    assert codec.event("/", ["foo"]).text == b']"oof"[2'
    assert facts(codec.decode(']"oof"[2')) == (EVENT, "/", None, ["foo"])
    message = codec.event("/", ["foo", b"x"], 3)
    assert message.text is not None
    partial = codec.decode(message.text.decode())
    assert isinstance(partial, Partial)
    assert facts(partial.add(b"x")) == (EVENT, "/", 3, ["foo", b"x"])
    for bad in ("", 'x"', ']"oof"[-99995'):
        with pytest.raises(BadPacket):
            codec.decode(bad)


def test_the_default_packet_class_is_the_default() -> None:
    """Whoever names it gets the fast way."""
    assert isinstance(codec_for(socketio.packet.Packet, None), JsonCodec)
