"""Socket.IO packets (protocol revision 5, "Packet encoding") to messages and back.  Pure.

Every packet from a client is checked here, whole: what the rest gets has the shape that the protocol promises, and
everything else is one BadPacket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from node import jsons
from node.message import Message

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
"""Types of packets."""

_BINARY = BINARY_EVENT - EVENT
"""Between a type and the same with attachments."""

MAIN = "/"
"""The namespace that is not written."""

RESERVED = frozenset({"connect", "connect_error", "disconnect"})
"""Events that happen and are not sent: a client that sends one would call the handler of what did not happen."""

MOST_ATTACHMENTS = 1000
"""Of one packet.  They wait in memory until the last has come."""

MOST_NAMESPACE_CHARS = 1000
MOST_ID_DIGITS = 20

_HEAD = re.compile(
    rf"([0-6])(?:(\d{{1,10}})-)?(?:(/[^,]*),?)?(\d{{1,{MOST_ID_DIGITS}}})?",
    re.ASCII,
)


class BadPacket(Exception):
    """A client sent what is not Socket.IO."""


class Packet:
    """What a client sent: a CONNECT, DISCONNECT, EVENT or ACK, with its attachments back in their places.

    `data` is None or a dict (CONNECT), None (DISCONNECT), the name and the arguments (EVENT), the arguments (ACK).
    """

    __slots__ = ("data", "id", "kind", "namespace")

    def __init__(self, kind: int, namespace: str, id_: int | None, data: Any) -> None:
        self.kind = kind
        self.namespace = namespace
        self.id = id_
        self.data = data


class Partial:
    """A packet whose attachments have not all come."""

    __slots__ = ("_packet", "attachments", "missing", "size", "text")

    def __init__(self, text: str | bytes, packet: Packet, count: int) -> None:
        self.text = text
        self._packet = packet
        self.missing = count
        self.attachments: list[bytes] = []
        self.size = len(text)

    @property
    def namespace(self) -> str:
        return self._packet.namespace

    def add(self, attachment: str | bytes) -> Packet | None:
        """Take the next attachment; return the packet when that was the last.  Raises BadPacket."""
        if isinstance(attachment, str):
            raise BadPacket("text where an attachment was announced")
        self.attachments.append(attachment)
        self.size += len(attachment)
        self.missing -= 1
        if self.missing:
            return None
        return _completed(self._packet, self.attachments)


class Codec(Protocol):
    """A format of packets.  Encoding raises what the format's own encoder does for data that it cannot hold."""

    def event(self, namespace: str, name_and_arguments: list[Any], id_: int | None = None) -> Message: ...

    def ack(self, namespace: str, id_: int, arguments: list[Any]) -> Message: ...

    def connect(self, namespace: str, sid: str) -> Message: ...

    def connect_error(self, namespace: str, data: Any) -> Message: ...

    def disconnect(self, namespace: str, data: Any = None) -> Message: ...

    def decode(self, data: str | bytes) -> Packet | Partial:
        """Raises BadPacket, and nothing else."""


def arguments_of(data: Any) -> Iterable[Any]:
    """Return the arguments of an event whose `data` is as python-socketio's `emit` takes it: a tuple is several."""
    if isinstance(data, tuple):
        return data
    return () if data is None else (data,)


class JsonCodec:
    """The default format.  `json` is a user's JSON module in place of ours."""

    def __init__(self, json: jsons.Json | None = None) -> None:
        self._json = json
        self._loads = jsons.loads if json is None else json.loads

    def event(self, namespace: str, name_and_arguments: list[Any], id_: int | None = None) -> Message:
        if namespace == MAIN and id_ is None and self._json is None:
            try:
                return Message(b"2" + jsons.dumps(name_and_arguments))
            except TypeError:
                return self._encode_with_attachments(EVENT, MAIN, None, name_and_arguments)
        return self._encode(EVENT, namespace, id_, name_and_arguments)

    def ack(self, namespace: str, id_: int, arguments: list[Any]) -> Message:
        if namespace == MAIN and self._json is None:
            try:
                return Message(b"3%d%b" % (id_, jsons.dumps(arguments)))
            except TypeError:
                return self._encode_with_attachments(ACK, MAIN, id_, arguments)
        return self._encode(ACK, namespace, id_, arguments)

    def connect(self, namespace: str, sid: str) -> Message:
        return self._encode(CONNECT, namespace, None, {"sid": sid})

    def connect_error(self, namespace: str, data: Any) -> Message:
        return self._encode(CONNECT_ERROR, namespace, None, data)

    def disconnect(self, namespace: str, data: Any = None) -> Message:
        if data is None:
            return Message(_head(DISCONNECT, namespace, None))
        return self._encode(DISCONNECT, namespace, None, data)

    def decode(self, data: str | bytes) -> Packet | Partial:
        if not isinstance(data, str):
            raise BadPacket("an attachment that was not announced")
        # By far the most: an event in the main namespace, with or without an id.
        if data[:1] == "2":
            start = data.find("[")
            digits = data[1:start]
            if start == 1 or (start <= MOST_ID_DIGITS and digits.isdecimal() and digits.isascii()):
                try:
                    payload = self._loads(data[start:])
                except (ValueError, RecursionError) as exc:
                    raise BadPacket(f"its payload is no JSON: {exc}") from None
                return _event(MAIN, int(digits) if digits else None, payload)
        return self._decode_any(data)

    def _decode_any(self, text: str) -> Packet | Partial:
        head = _HEAD.match(text)
        if head is None:
            raise BadPacket("no type of packet")
        kind = int(head[1])
        namespace = (head[3] or MAIN).partition("?")[0]
        if len(namespace) > MOST_NAMESPACE_CHARS:
            raise BadPacket("the namespace's name is too long")
        id_ = int(head[4]) if head[4] else None
        data = self._payload(text[head.end() :]) if head.end() < len(text) else None
        attached = kind >= BINARY_EVENT
        if (head[2] is not None) is not attached:
            raise BadPacket("attachments are announced in binary packets, and in no others")
        if not attached:
            return checked(kind, namespace, id_, data)
        packet = checked(kind - _BINARY, namespace, id_, data)
        count = int(head[2])
        if count > MOST_ATTACHMENTS:
            raise BadPacket(f"more than {MOST_ATTACHMENTS} attachments")
        return Partial(text, packet, count) if count else _completed(packet, [])

    def _payload(self, text: str) -> Any:
        try:
            return self._loads(text)
        except (ValueError, RecursionError) as exc:
            raise BadPacket(f"its payload is no JSON: {exc}") from None

    def _encode(self, kind: int, namespace: str, id_: int | None, data: Any) -> Message:
        if self._json is None:
            try:
                return Message(_head(kind, namespace, id_) + jsons.dumps(data))
            except TypeError:
                if kind not in (EVENT, ACK):
                    raise
        return self._encode_with_attachments(kind, namespace, id_, data)

    def _encode_with_attachments(self, kind: int, namespace: str, id_: int | None, data: Any) -> Message:
        """Encode what JSON refuses: there may be bytes in it.

        A user's own module may write bytes in a way of its own, and must not get to see them.
        """
        attachments: list[bytes] = []
        if kind in (EVENT, ACK):
            data = detached(data, attachments)
        text = jsons.dumps(data) if self._json is None else self._json.dumps(data, separators=(",", ":")).encode()
        if not attachments:
            return Message(_head(kind, namespace, id_) + text)
        return Message(_head(kind + _BINARY, namespace, id_, len(attachments)) + text, tuple(attachments))


def checked(kind: int, namespace: str, id_: int | None, data: Any) -> Packet:
    """Return the packet.  Raises BadPacket if it is not one that clients send."""
    if kind == EVENT:
        return _event(namespace, id_, data)
    if kind == ACK:
        if type(data) is not list or id_ is None:
            raise BadPacket("an acknowledgement is a list, and has an id")
    elif kind == CONNECT:
        if not (data is None or type(data) is dict):
            raise BadPacket("a connection's authentication is an object")
    elif kind != DISCONNECT or data is not None:
        raise BadPacket(f"type {kind} does not come from clients, or not with a payload")
    return Packet(kind, namespace, id_, data)


def _event(namespace: str, id_: int | None, data: Any) -> Packet:
    if type(data) is not list or not data or type(data[0]) is not str or data[0] in RESERVED:
        raise BadPacket("an event is a list that begins with its name, which is none of the reserved")
    return Packet(EVENT, namespace, id_, data)


def _head(kind: int, namespace: str, id_: int | None, attachments: int = 0) -> bytes:
    count = f"{attachments}-" if attachments else ""
    where = "" if namespace == MAIN else f"{namespace},"
    return f"{kind}{count}{where}{'' if id_ is None else id_}".encode()


def detached(data: Any, attachments: list[bytes]) -> Any:
    """Return `data` with placeholders for the bytes in it, which are added to `attachments`."""
    if isinstance(data, bytes | bytearray | memoryview):
        attachments.append(bytes(data))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(data, list | tuple):
        return [detached(item, attachments) for item in data]
    if isinstance(data, dict):
        return {key: detached(value, attachments) for key, value in data.items()}
    return data


def _completed(packet: Packet, attachments: list[bytes]) -> Packet:
    try:
        packet.data = _attached(packet.data, attachments)
    except RecursionError:
        raise BadPacket("its payload is nested too deeply") from None
    return packet


def _attached(data: Any, attachments: list[bytes]) -> Any:
    if type(data) is list:
        return [_attached(item, attachments) for item in data]
    if type(data) is not dict:
        return data
    if data.get("_placeholder") is not True:
        return {key: _attached(value, attachments) for key, value in data.items()}
    number = data.get("num")
    if type(number) is not int or not 0 <= number < len(attachments):
        raise BadPacket("a placeholder for an attachment that there is not")
    return attachments[number]
