"""A polling client's way to a WebSocket: it probes, then changes over, or stays (Engine.IO protocol 4, "Upgrade").

Until the client says that it has changed over, everything goes through its polls; from then on, in the same order,
through the WebSocket.  The client has no poll then and posts no more, so that nothing overtakes anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from node.frames import TEXT, frame
from node.wheel import OUT

if TYPE_CHECKING:
    from node.channel import Channel
    from node.session import Session

log = logging.getLogger(__name__)

UPGRADE_TIMEOUT_S = 10.0
"""How long a client may take to probe a WebSocket and change over to it: as Engine.IO's reference server."""

POLICY_VIOLATION = 1008

_PONG = frame(TEXT, b"3probe")


class Probe:
    """A WebSocket that the client of `session` tries.  A node.channel.Receiver until the client has changed over."""

    __slots__ = ("_session", "channel", "is_answered", "slot")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.channel: Channel | None = None
        self.slot = OUT
        self.is_answered = False
        """The client knows that the WebSocket works, and ends its polling."""

    def start(self, channel: Channel, now: float) -> None:
        self.channel = channel
        self._session.engine.wheel.put_after(self, now + UPGRADE_TIMEOUT_S)

    def received(self, data: str | bytes) -> None:
        polling = self._session.polling
        if self.channel is None or polling is None or polling.probe is not self:
            return
        if data == "2probe" and not self.is_answered:
            self.is_answered = True
            self.channel.write(_PONG)
            polling.wake()
        elif data == "5" and self.is_answered:
            self._session.engine.wheel.remove(self)
            self._session.change_over(self.channel)
        else:
            self.give_up("not an upgrade")

    def due(self, now: float) -> None:
        """As Member.due: the client has taken too long."""
        self.give_up("upgrade timeout")

    def give_up(self, reason: str) -> None:
        """Let the client go on polling."""
        self._forget()
        if self.channel is not None:
            log.info("upgrade given up", extra={"sid": self._session.sid, "reason": reason})
            self.channel.close(POLICY_VIOLATION, reason)

    def closed(self, code: int, reason: str) -> None:
        self._forget()

    def _forget(self) -> None:
        self._session.engine.wheel.remove(self)
        polling = self._session.polling
        if polling is not None and polling.probe is self:
            polling.probe = None
