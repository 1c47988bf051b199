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

from lb.certificates import CertificateError, Files, Pair, day, load

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
    """Loads `files`, and again whenever they change; `tell` hears of it.  Raises CertificateError."""

    def __init__(
        self, files: Files, tell: Tell, handshaken: Callable[[bool], None], *, wall: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._tell = tell
        self._wall = wall
        self.handshaken = handshaken
        """Counts a handshake that succeeded, and whether it resumed a session."""
        self._seen = self._taken = files.look()
        self._pair = load(files)
        self._refused = ""
        self._told = ("", -REMIND_S)
        self._hurried = asyncio.Event()

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake is made with."""
        return self._pair.context

    @property
    def pair(self) -> Pair:
        return self._pair

    def report(self) -> dict[str, int | float | str]:
        """Return what the worker's report says of it, see `Worker` in lb/reports.py."""
        return {
            "certificate_expires": self._pair.expires,
            "certificate_refused": bool(self._refused),
            "certificate_problem": self._refused or self._pair.problem(self._wall()),
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
        """Load the files if they have changed, and have not since the last look, or the change `is_whole`."""
        seen, self._seen = self._seen, self._files.look()
        if self._seen == self._taken and not self._refused:
            return
        if self._seen == seen or is_whole:
            self._load()

    def _load(self) -> None:
        self._taken = self._seen
        try:
            self._pair = load(self._files)
        except CertificateError as exc:
            # We go on with what we have; the next look tries again, and says no more unless it is something else.
            if str(exc) != self._refused:
                self._refused = str(exc)
                self._tell(REFUSED, self._refused, level=logging.ERROR)
        else:
            self._refused = ""
            self._told = ("", -REMIND_S)
            held = f"{' '.join(self._pair.names)} until {day(self._pair.expires)}"
            self._tell(RELOADED, held.strip(), level=logging.INFO)

    def _remind(self) -> None:
        problem, now = self._pair.problem(self._wall()), time.monotonic()
        said, at = self._told
        if problem and (problem != said or now - at >= REMIND_S):
            self._told = (problem, now)
            self._tell(ENDS, problem, level=logging.ERROR if self._wall() >= self._pair.expires else logging.WARNING)
