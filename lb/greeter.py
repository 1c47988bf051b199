"""The way into a TLS port: each connection is looked at until its ClientHello is there, and nothing is read.

So who asks for a host gets its certificate, who sends something else is told so, who only speaks a protocol that we do
not is refused by the alert that is meant for it, and who says nothing costs a descriptor and a timer, but no TLS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from lb.arrived import Arrived
from lb.client_hello import NO_APPLICATION_PROTOCOL, Hello, Opening, opening
from lb.errors import PlainHttp
from lb.farewell import FIRST_REQUEST_S
from lb.limits import Admission
from lb.peeking import arrival, drop

log = logging.getLogger(__name__)


class Greeter:
    """Gives back the connections that begin with a ClientHello, and refuses all others."""

    reads = False

    def __init__(self, admission: Admission, head_timeout_s: float, rejected: Callable[[str], None]) -> None:
        self._admission = admission
        self._head_timeout_s = head_timeout_s
        self._rejected = rejected
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Task[None]] = set()

    def send(self, arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None]) -> Arrived | None:
        """Call `back` when `arrived` has begun TLS, or plain HTTP: then with what is to be said to that."""
        found = opening(arrived.received)
        if not isinstance(found, int):
            self._decide(arrived, found, back)
        else:
            task = self._loop.create_task(self._wait(arrived, found, back))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        return None

    def wind_down(self) -> None:
        """Let go of those that do not begin soon."""
        self._loop.call_later(FIRST_REQUEST_S, self._close)

    def _close(self) -> None:
        for task in self._waiting:
            task.cancel()

    async def _wait(self, arrived: Arrived, size: int, back: Callable[[Arrived], None]) -> None:
        found: Hello | Opening | int = size
        try:
            async with asyncio.timeout(self._head_timeout_s + arrived.at - time.monotonic()):
                while isinstance(found, int):
                    found = opening(await arrival(arrived.sock, found))
        except TimeoutError:
            self._refuse(arrived, "tls_timeout", "no whole ClientHello in time")
        except OSError:
            self._let_go(arrived)
        except asyncio.CancelledError:
            self._let_go(arrived)
            raise
        else:
            self._decide(arrived, found, back)

    def _decide(self, arrived: Arrived, found: Hello | Opening, back: Callable[[Arrived], None]) -> None:
        arrived.received = b""
        match found:
            case Hello():
                arrived.name = found.name
                back(arrived)
            case Opening.HTTP:
                self._admission.leave(arrived.peer)
                arrived.refusal = PlainHttp("plain HTTP on the TLS port")
                back(arrived)
            case Opening.OTHER_PROTOCOL:
                with suppress(OSError):  # it has gone
                    arrived.sock.setblocking(False)
                    arrived.sock.send(NO_APPLICATION_PROTOCOL)
                self._refuse(arrived, "tls_alpn", "it speaks no http/1.1")
            case Opening.GARBAGE:
                self._refuse(arrived, "tls_failed", "no TLS")

    def _refuse(self, arrived: Arrived, counted: str, reason: str) -> None:
        log.info("connection refused", extra={"peer": arrived.peer, "reason": reason})
        self._rejected(counted)
        self._let_go(arrived)

    def _let_go(self, arrived: Arrived) -> None:
        drop(arrived.sock)
        self._admission.leave(arrived.peer)
