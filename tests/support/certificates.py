"""Certificates for a test: real ones, issued on the spot by an authority that only the test trusts."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass
class Certificates:
    """A certificate for `names` and its key, in files; `authority` signed it."""

    directory: Path
    authority: trustme.CA = field(default_factory=trustme.CA)
    names: Sequence[str] = NAMES

    def __post_init__(self) -> None:
        self.issue()

    @property
    def certificate(self) -> Path:
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        return self.directory / "tls.key"

    @property
    def section(self) -> dict[str, Any]:
        """What `lb.tls` says of them."""
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def issue(self, *, days: float = 90, **options: Any) -> None:
        """Put another certificate and its key in the place of those that are there."""
        issued = self.authority.issue_cert(*self.names, not_after=datetime.now(UTC) + timedelta(days=days), **options)
        replace(self.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        replace(self.key, issued.private_key_pem.bytes())

    def beside(self, directory: str, *names: str) -> Certificates:
        """Return another certificate, for `names`, of the same authority, in a `directory` of its own."""
        place = self.directory / directory
        place.mkdir()
        return Certificates(place, self.authority, names)

    def trust(self, *protocols: str) -> ssl.SSLContext:
        """Return what a client that trusts the authority connects with, and offers `protocols` in ALPN."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def replace(file: Path, content: bytes) -> None:
    """Write a file as those do who renew certificates: another one takes its place at once."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)
