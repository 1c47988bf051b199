"""Packets in a user's own format: python-socketio's `serializer`, "msgpack" or a packet class."""

from __future__ import annotations

from typing import Any

from socketio.msgpack_packet import MsgPackPacket
from socketio.packet import Packet as DefaultPacket

from node import jsons
from node.codec import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    MAIN,
    MOST_ATTACHMENTS,
    MOST_ID_DIGITS,
    MOST_NAMESPACE_CHARS,
    BadPacket,
    Codec,
    JsonCodec,
    Packet,
    Partial,
    checked,
)
from node.message import Message


def codec_for(serializer: Any, json: jsons.Json | None) -> Codec:
    """Return the codec that `socketio.AsyncServer(serializer=…, json=…)` stands for."""
    if serializer == "default" or serializer is DefaultPacket:
        return JsonCodec(json)
    return ClassCodec(MsgPackPacket if serializer == "msgpack" else serializer)


class ClassCodec:
    """The format of a packet class, which has the constructor and the methods of `socketio.packet.Packet`."""

    def __init__(self, packet_class: Any) -> None:
        self._class = packet_class

    def event(self, namespace: str, name_and_arguments: list[Any], id_: int | None = None) -> Message:
        return self._encode(EVENT, namespace, id_, name_and_arguments)

    def ack(self, namespace: str, id_: int, arguments: list[Any]) -> Message:
        return self._encode(ACK, namespace, id_, arguments)

    def connect(self, namespace: str, sid: str) -> Message:
        return self._encode(CONNECT, namespace, None, {"sid": sid})

    def connect_error(self, namespace: str, data: Any) -> Message:
        return self._encode(CONNECT_ERROR, namespace, None, data)

    def disconnect(self, namespace: str, data: Any = None) -> Message:
        return self._encode(DISCONNECT, namespace, None, data)

    def _encode(self, kind: int, namespace: str, id_: int | None, data: Any) -> Message:
        encoded = self._class(kind, data=data, namespace=namespace, id=id_).encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        if isinstance(parts[0], str):
            return Message(parts[0].encode(), tuple(map(bytes, parts[1:])))
        return Message(None, tuple(map(bytes, parts)))

    def decode(self, data: str | bytes) -> Packet | Partial:
        if not data:
            raise BadPacket("empty")
        try:
            packet = self._class(encoded_packet=data)
            kind, namespace, id_ = packet.packet_type, packet.namespace or MAIN, packet.id
            payload, count = packet.data, packet.attachment_count
        except Exception as exc:  # noqa: BLE001  (a format that we do not know, fed with what a client made up)
            raise BadPacket(f"cannot be decoded: {exc!r}") from None
        if type(kind) is not int or not _is_namespace(namespace) or not _is_id(id_):
            raise BadPacket("its type, namespace or id is not such")
        if kind not in (BINARY_EVENT, BINARY_ACK):
            return checked(kind, namespace, id_, payload)
        if count > MOST_ATTACHMENTS:
            raise BadPacket(f"more than {MOST_ATTACHMENTS} attachments")
        complete = checked(EVENT if kind == BINARY_EVENT else ACK, namespace, id_, payload)
        return Partial(data, complete, count) if count else complete


def _is_namespace(name: object) -> bool:
    return isinstance(name, str) and name.startswith("/") and len(name) <= MOST_NAMESPACE_CHARS


def _is_id(id_: object) -> bool:
    return id_ is None or (type(id_) is int and 0 <= id_ < 10**MOST_ID_DIGITS)
