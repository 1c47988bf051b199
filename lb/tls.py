"""TLS as a worker speaks it: the certificate of now for who is asked for, and the next one as soon as it is there.

The files are looked at every few seconds, as whatever renews certificates (certbot, cert-manager, a mounted Kubernetes
secret) replaces them in its own way, and without asking.  New handshakes get the new certificate, and connections that
are open go on.  What cannot be used is said, and the certificate that was goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lb.certificates import Files, Pair, Pem, day
from lb.names import Names
from lb.renewal import Followed

LOOK_S = 2.0
"""How often the files are looked at.  A change is taken when the next look finds the same: then both are there."""

REMIND_S = 86400.0
"""How often an operator is told again of a certificate that ends."""

UNKNOWN_S = 3600.0
"""How often an operator is told again that clients ask for names that no certificate has."""

RELOADED = "certificate reloaded"
REFUSED = "certificate not reloaded: the one before stays"
ENDS = "certificate ends"
OVERLAPS = "certificate not used for all its names"
UNKNOWN = "no certificate has a name that clients ask for"

_TELLABLE = re.compile(r"[A-Za-z0-9._-]{1,253}")


class Tell(Protocol):
    """Remembers and logs what happened, and why."""

    def __call__(self, kind: str, reason: str, *, level: int) -> None: ...


class Counts(Protocol):
    """Counts handshakes that succeeded, and those that began for a name that nobody has."""

    def tls_handshake(self, resumed: bool) -> None: ...

    def tls_unknown_name(self) -> None: ...


@dataclass(frozen=True)
class InUse:
    """A certificate in use, as its worker reports it; `expires` is wall clock time in seconds."""

    file: str
    expires: float
    refused: bool
    """What is in the files by now cannot be used."""
    problems: Sequence[str]
    """What an operator should know of it."""


class Tls:
    """Loads each of `files`, the first for who asks for no other, and again whenever they change; `tell` hears of it.

    As long as they cannot be used, what was `kept` of them is.  Without that, raises CertificateError.
    """

    def __init__(
        self,
        files: Sequence[Files],
        tell: Tell,
        counts: Counts,
        *,
        kept: Sequence[Pem] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tell = tell
        self._wall = wall
        self._counts = counts
        self.handshaken = counts.tls_handshake
        begun_with = kept or itertools.repeat(None, len(files))
        self._followed = [Followed(each, pem) for each, pem in zip(files, begun_with, strict=True)]
        self._reminded: dict[Files, tuple[str, float]] = {}
        self._unknown, self._unknown_name, self._unknown_told = 0, "", -UNKNOWN_S
        self._hurried = asyncio.Event()
        for each in self._followed:
            if each.refused:
                self._tell(REFUSED, each.refused, level=logging.ERROR)
        self._remarks: dict[int, list[str]] = {}
        self._name()

    @property
    def pair(self) -> Pair:
        """What those get who ask for no name, or for one that nobody has."""
        return self._followed[0].pair

    def context(self, name: str = "") -> ssl.SSLContext:
        """Return what the next handshake is made with whose client asks for `name`."""
        owner = self._names.owner(name) if name else 0
        if owner is None:
            self._counts.tls_unknown_name()
            self._unknown += 1
            self._unknown_name = name
        return self._followed[owner or 0].pair.context

    def report(self) -> tuple[InUse, ...]:
        """Return what the worker's report says of them, see `Worker` in lb/reports.py."""
        now = self._wall()
        return tuple(
            InUse(
                str(each.files.certificate),
                each.pair.expires,
                bool(each.refused),
                [problem for problem in (each.refused, each.problem(now), *self._remarks.get(number, [])) if problem],
            )
            for number, each in enumerate(self._followed)
        )

    def hurry(self) -> None:
        """Look at once: whoever asks for it has replaced all files."""
        self._hurried.set()

    async def run(self) -> None:
        """Look from time to time.  Never returns."""
        while True:
            self._remind()
            self.tell_of_unknown()
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
        news = [each for each in self._followed if each.look(is_whole=is_whole)]
        for each in news:
            if each.refused:
                self._tell(REFUSED, each.refused, level=logging.ERROR)
            else:
                self._reminded.pop(each.files, None)
                held = f"{' '.join(each.pair.names)} until {day(each.pair.expires)}"
                self._tell(RELOADED, held.strip(), level=logging.INFO)
        if news:
            self._name()

    def _name(self) -> None:
        """See who has which names by now, and tell of those that are in vain, unless that was told."""
        self._names = Names([each.pair.names for each in self._followed])
        told, self._remarks = self._remarks, {}
        for number, remark in self._names.remarks([each.files.section for each in self._followed]):
            self._remarks.setdefault(number, []).append(remark)
            if remark not in told.get(number, []):
                self._tell(OVERLAPS, remark, level=logging.WARNING)

    def _remind(self) -> None:
        now, wall = time.monotonic(), self._wall()
        for each in self._followed:
            problem = each.problem(wall)
            said, at = self._reminded.get(each.files, ("", -REMIND_S))
            if problem and (problem != said or now - at >= REMIND_S):
                self._reminded[each.files] = (problem, now)
                self._tell(ENDS, problem, level=logging.ERROR if wall >= each.pair.expires else logging.WARNING)

    def tell_of_unknown(self) -> None:
        """Tell of names that nobody has, if somebody asked for one, and that was not told a short while ago."""
        now = time.monotonic()
        if self._unknown and now - self._unknown_told >= UNKNOWN_S:
            # What clients send is not for a log as it is.
            name = self._unknown_name if _TELLABLE.fullmatch(self._unknown_name) else "what is no name"
            reason = f"{self._unknown} got {self._followed[0].files.section} instead, the last one asked for {name}"
            self._unknown, self._unknown_told = 0, now
            self._tell(UNKNOWN, reason, level=logging.WARNING)
