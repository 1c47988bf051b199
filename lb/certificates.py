"""A certificate and its key, read from files: what is wrong with them in one line, or what TLS needs of them."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cluster.config import Tls as Settings
from cluster.errors import StartError
from cluster.nameless import nameless, path_of
from lb.names import Names
from lb.x509 import Certificate, certificates_in

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption or nothing (RFC 9325 4.2).  TLS 1.3 has no others."""

SOON_S = 14 * 86400
"""How long before its end a certificate is spoken of: whoever renews by machine has renewed by then."""

_MOST_BYTES = 2**20

_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED", "NO_PRIVATE_KEY_ASSIGNED"}
"""What OpenSSL says of a key that belongs to another certificate."""


class CertificateError(StartError):
    """The certificate or its key cannot be used."""


@dataclass(frozen=True)
class Files:
    """Where a certificate and its key are; `section` is the section of the configuration that says so."""

    certificate: Path
    key: Path
    minimum: str = "1.2"
    section: str = "lb.tls"

    @classmethod
    def of(cls, settings: Settings, base: Path) -> list[Files]:
        """Return the files that are configured, the default's first; relative paths begin at `base`."""
        return [
            cls(base / pair.certificate, base / pair.key, settings.minimum, section)
            for section, pair in settings.pairs.items()
        ]

    def look(self) -> tuple[object, ...]:
        """Return what is different when either file was changed or replaced, also behind a symbolic link."""
        return tuple(_identity(file) for file in (self.certificate, self.key))


@dataclass(frozen=True)
class Pem:
    """What the files of a certificate and its key hold."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, ready for handshakes."""

    pem: Pem
    context: ssl.SSLContext
    names: tuple[str, ...]
    begins: float
    expires: float
    """Wall clock times between which the certificate, and all that come with it, hold."""

    def problem(self, now: float) -> str:
        """Say what an operator should know of its time at `now`; nothing, if all is well."""
        if now >= self.expires:
            return f"the certificate expired on {day(self.expires)}: clients refuse it"
        if now < self.begins:
            return f"the certificate holds from {day(self.begins)} on only: clients refuse it"
        if now >= self.expires - SOON_S:
            return f"the certificate expires on {day(self.expires)}"
        return ""


def day(at: float) -> str:
    """Return a wall clock time as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def load(files: Files) -> Pair:
    """Read `files`.  Raises CertificateError: one line that says which key of the configuration is wrong, and how."""
    return loaded(Pem(_content(files, "certificate"), _content(files, "key")), files)


def loaded(pem: Pem, files: Files) -> Pair:
    """Make ready what was read from `files`.  Raises CertificateError as `load` does."""
    chain = _chain(pem.certificate, files)
    _check_key(pem.key, files)
    context = _context(files.minimum)

    def no_password() -> str:
        # OpenSSL asks for one only where one is needed; without this function it would ask the terminal.
        raise CertificateError(f"{files.section}.key: {files.key} is encrypted; allowed: a key without a password")

    try:
        # Python takes paths only; and the files may hold something else by now.
        with nameless(pem.certificate) as certificate, nameless(pem.key) as key:
            context.load_cert_chain(path_of(certificate), path_of(key), password=no_password)
    except ssl.SSLError as exc:
        if exc.reason in _MISMATCH:
            raise CertificateError(
                f"{files.section}.key: {files.key} is not the key of the first certificate in {files.certificate}"
            ) from None
        reason = (exc.reason or str(exc)).replace("_", " ").lower()
        raise CertificateError(
            f"{files.section}: {files.certificate} with {files.key} cannot be used: {reason}"
        ) from None
    except OSError as exc:
        raise CertificateError(
            f"{files.section}: {files.certificate} with {files.key} cannot be loaded: {exc.strerror}"
        ) from None
    return Pair(
        pem,
        context,
        names=chain[0].names,
        begins=max(each.begins for each in chain),
        expires=min(each.expires for each in chain),
    )


def problems(settings: Settings, base: Path) -> Iterator[CertificateError]:
    """Yield what keeps TLS from being spoken with these settings."""
    for files in Files.of(settings, base):
        try:
            load(files)
        except CertificateError as exc:
            yield exc


def check(settings: Settings, base: Path) -> None:
    """Raise CertificateError if TLS cannot be spoken with these settings."""
    for problem in problems(settings, base):
        raise problem


def summary(settings: Settings, base: Path) -> tuple[dict[str, str], list[str]]:
    """Return in a few words what clients get to see, by section, and what an operator may have missed.

    Raises CertificateError.
    """
    pairs = {files.section: load(files) for files in Files.of(settings, base)}
    shown = {}
    for section, pair in pairs.items():
        problem = pair.problem(time.time())
        shown[section] = f"{' '.join(pair.names) or 'no names'}, {problem or f'until {day(pair.expires)}'}"
    names = Names([pair.names for pair in pairs.values()])
    return shown, [remark for _, remark in names.remarks(list(pairs))]


def _identity(file: Path) -> object:
    try:
        found = os.stat(file)
    except OSError as exc:
        return exc.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _chain(content: bytes, files: Files) -> list[Certificate]:
    told = f"{files.section}.certificate: {files.certificate} holds no"
    try:
        chain = certificates_in(content)
    except ValueError as exc:
        raise CertificateError(f"{told} valid certificate: {exc}") from None
    if not chain:
        raise CertificateError(f"{told} certificate in PEM (-----BEGIN CERTIFICATE-----){_if_der(content)}")
    return chain


def _check_key(content: bytes, files: Files) -> None:
    if b"PRIVATE KEY-----" not in content:
        raise CertificateError(
            f"{files.section}.key: {files.key} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"
            f"{_if_der(content)}"
        )


def _content(files: Files, key: str) -> bytes:
    file: Path = getattr(files, key)
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES)
    except OSError as exc:
        raise CertificateError(f"{files.section}.{key}: {file} cannot be read: {exc.strerror}") from None
    if not content:
        raise CertificateError(f"{files.section}.{key}: {file} is empty")
    return content


def _if_der(content: bytes) -> str:
    return "; it looks like DER: convert it with openssl" if content.startswith(b"\x30") else ""


def _context(minimum: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # All suites are good ones, so the client knows best: phones without AES in hardware prefer ChaCha20.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    return context
