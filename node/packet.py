"""Socket.IO packets as clients send them: python-socketio's, checked before anything acts on them.

python-socketio (5.18) trusts its clients' packets; a malformed one fails somewhere inside, with a traceback in the
log for each.  A checked one fails here, with one kind of error.
"""

from __future__ import annotations

from typing import Any

from socketio.packet import ACK, BINARY_ACK, BINARY_EVENT, CONNECT, DISCONNECT, EVENT, Packet

_FROM_CLIENTS = (CONNECT, DISCONNECT, EVENT, ACK, BINARY_EVENT, BINARY_ACK)


class BadPacket(Exception):
    """A client sent what is not Socket.IO: protocol revision 5, "Packet encoding"."""


class CheckedPacket(Packet):  # type: ignore[misc]
    """A packet whose decoding raises BadPacket, and nothing else."""

    def __init__(self, *parts: Any, encoded_packet: Any = None, **more: Any) -> None:
        # python-socketio takes an empty one for none at all.
        if encoded_packet is not None and not (isinstance(encoded_packet, str) and encoded_packet):
            raise BadPacket("text was expected, and not an empty one")
        super().__init__(*parts, encoded_packet=encoded_packet, **more)

    def decode(self, encoded_packet: str) -> Any:
        try:
            attachments = super().decode(encoded_packet)
        except (ValueError, RecursionError) as exc:
            raise BadPacket(f"cannot be decoded: {exc}") from None
        self._check()
        return attachments

    def add_attachment(self, attachment: Any) -> Any:
        if not isinstance(attachment, bytes):
            raise BadPacket("text where an attachment was announced")
        try:
            complete = super().add_attachment(attachment)
        except (ValueError, TypeError, IndexError, RecursionError) as exc:
            raise BadPacket(f"attachments do not fit: {exc}") from None
        if complete:
            self._check()
        return complete

    def _check(self) -> None:
        if self.packet_type not in _FROM_CLIENTS:
            raise BadPacket(f"type {self.packet_type} does not come from clients")
        if self.packet_type in (EVENT, BINARY_EVENT) and not (
            isinstance(self.data, list) and self.data and isinstance(self.data[0], str)
        ):
            raise BadPacket("an event is a list that begins with its name")
        if self.packet_type in (ACK, BINARY_ACK) and not (isinstance(self.data, list) and self.id is not None):
            raise BadPacket("an acknowledgement is a list, and has an id")
        if self.packet_type == CONNECT and not (self.data is None or isinstance(self.data, dict)):
            raise BadPacket("a connection's authentication is an object")
