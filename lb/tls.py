"""TLS as a worker speaks it: the certificate of now, and the next one as soon as it is there.

The files are looked at every few seconds, as whatever renews certificates (certbot, cert-manager, a mounted Kubernetes
secret) replaces them in its own way, and without asking.  New handshakes get the new certificate, and connections that
are open go on.  What cannot be used is said, and the certificate that was goes on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from lb.certificates import Files, Pair, Pem, day
from lb.renewal import Followed

LOOK_S = 2.0
"""How often the files are looked at.  A change is taken when the next look finds the same: then both are there."""

REMIND_S = 86400.0
"""How often an operator is told again of a certificate that ends."""

RELOADED = "certificate reloaded"
REFUSED = "certificate not reloaded: the one before stays"
ENDS = "certificate ends"


class Tell(Protocol):
    """Remembers and logs what happened, and why."""

    def __call__(self, kind: str, reason: str, *, level: int) -> None: ...


class Tls:
    """Loads `files`, and again whenever they change; `tell` hears of it.

    As long as they cannot be used, what was `kept` of them is.  Without that, raises CertificateError.
    """

    def __init__(
        self,
        files: Files,
        tell: Tell,
        handshaken: Callable[[bool], None],
        *,
        kept: Pem | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tell = tell
        self._wall = wall
        self.handshaken = handshaken
        """Counts a handshake that succeeded, and whether it resumed a session."""
        self._followed = Followed(files, kept)
        self._told = ("", -REMIND_S)
        self._hurried = asyncio.Event()
        if self._followed.refused:
            self._tell(REFUSED, self._followed.refused, level=logging.ERROR)

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake is made with."""
        return self.pair.context

    @property
    def pair(self) -> Pair:
        return self._followed.pair

    def report(self) -> dict[str, int | float | str]:
        """Return what the worker's report says of it, see `Worker` in lb/reports.py."""
        refused = self._followed.refused
        return {
            "certificate_expires": self.pair.expires,
            "certificate_refused": bool(refused),
            "certificate_problem": refused or self.pair.problem(self._wall()),
        }

    def hurry(self) -> None:
        """Look at once: whoever asks for it has replaced both files."""
        self._hurried.set()

    async def run(self) -> None:
        """Look from time to time.  Never returns."""
        while True:
            self._remind()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._hurried.wait()
            except TimeoutError:
                self.look()
            else:
                self._hurried.clear()
                self.look(is_whole=True)

    def look(self, *, is_whole: bool = False) -> None:
        """Take what is in the files by now, as `Followed.look` says, and tell of it."""
        if not self._followed.look(is_whole=is_whole):
            return
        if self._followed.refused:
            self._tell(REFUSED, self._followed.refused, level=logging.ERROR)
            return
        self._told = ("", -REMIND_S)
        held = f"{' '.join(self.pair.names)} until {day(self.pair.expires)}"
        self._tell(RELOADED, held.strip(), level=logging.INFO)

    def _remind(self) -> None:
        problem, now = self.pair.problem(self._wall()), time.monotonic()
        said, at = self._told
        if problem and (problem != said or now - at >= REMIND_S):
            self._told = (problem, now)
            self._tell(ENDS, problem, level=logging.ERROR if self._wall() >= self.pair.expires else logging.WARNING)
