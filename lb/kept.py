"""The certificates that workers to come begin with when what is in the files cannot be used: the last that could.

The supervisor follows the files as workers do, and keeps what they held when it was good, keys too: in memory, behind
a descriptor that each new worker inherits, reads once and closes.  No file has it, no command line, no environment.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cluster.config import Tls as Settings
from cluster.errors import StartError
from cluster.nameless import nameless, whole
from lb import tls
from lb.certificates import Files, Pem
from lb.renewal import Followed

log = logging.getLogger(__name__)

LOOK_S = tls.LOOK_S / 2
"""Twice as often as workers look: what is there long enough for one of them to take it is kept as well."""


class Kept:
    """The last good content of each of `files`.

    Raises CertificateError if what is there first is not good, and StartError if there is no memory for it.
    """

    def __init__(self, files: Sequence[Files]) -> None:
        self._followed = [Followed(each) for each in files]
        self._is_written = True
        """Whether the file holds what is good by now."""
        try:
            self._file = nameless(self._content())
        except OSError as exc:
            raise StartError(f"lb.tls: no memory for the certificates: {exc.strerror}") from None

    @classmethod
    def of(cls, settings: Settings, base: Path) -> Kept | None:
        """Keep what is configured, if there is something.  Raises CertificateError and StartError."""
        files = Files.of(settings, base)
        return cls(files) if files else None

    def fileno(self) -> int:
        """Return the descriptor for new workers; it stays the same."""
        return self._file.fileno()

    def look(self, *, is_whole: bool = False) -> None:
        """Keep what has changed and is good, as `Followed.look` says."""
        before = [each.pair for each in self._followed]
        for each in self._followed:
            each.look(is_whole=is_whole)
        if [each.pair for each in self._followed] == before and self._is_written:
            return
        self._is_written = False
        try:
            with nameless(self._content()) as fresh:
                # A worker that starts meanwhile inherits the one or the other, and either is whole.
                os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
        except OSError as exc:
            log.warning("certificate not kept for new workers: tried again", extra={"reason": exc.strerror})
        else:
            self._is_written = True
            log.info("certificate kept for new workers")

    def close(self) -> None:
        self._file.close()

    def _content(self) -> bytes:
        pems = [each.pair.pem for each in self._followed]
        # Latin-1, as remarks in a PEM file may be in any coding (RFC 7468 2), and come back as they were.
        return json.dumps([(pem.certificate.decode("latin-1"), pem.key.decode("latin-1")) for pem in pems]).encode()


def inherited(fd: int) -> list[Pem]:
    """Return what the supervisor has kept behind `fd`, and close it.  Raises StartError."""
    try:
        content = whole(fd)
        os.close(fd)
    except OSError as exc:
        raise StartError(f"descriptor {fd} holds no certificates: {exc.strerror}") from None
    return [Pem(certificate.encode("latin-1"), key.encode("latin-1")) for certificate, key in json.loads(content)]
