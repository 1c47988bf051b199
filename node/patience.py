"""How long a session may be open without any namespace: it holds memory, and is of no use."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from node.session import TRANSPORT_CLOSE

if TYPE_CHECKING:
    from node.session import Session

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 45.0
"""As in socket.io's own server (`connectTimeout`)."""


class Patience:
    """Ends sessions that have had no namespace for `timeout_s`.  One timer for all: whoever came first is due first."""

    def __init__(self) -> None:
        self.timeout_s = CONNECT_TIMEOUT_S
        self._since: dict[Session, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        self._since[session] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.timeout_s, self._look)

    def end(self, session: Session) -> None:
        """It has a namespace now, or is gone."""
        self._since.pop(session, None)
        if not self._since and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for session, since in list(self._since.items()):
            if since + self.timeout_s > loop.time():
                self._timer = loop.call_at(since + self.timeout_s, self._look)
                return
            del self._since[session]
            log.info("session ended: it connected to no namespace", extra={"sid": session.sid})
            session.close(TRANSPORT_CLOSE)
