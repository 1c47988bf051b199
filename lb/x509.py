"""What an operator wants to know of a certificate: whose it is, and until when it holds.  Pure.

The standard library verifies certificates and tells nothing of its own; so the little that is needed is read here, from
DER (X.690) in the order of RFC 5280 4.1.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE, _OCTETS, _OID, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x04, 0x06, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17, RFC 5280 4.2.1.6


@dataclass(frozen=True)
class Certificate:
    """`begins` and `expires` are wall clock times in seconds; `names` are those that clients may ask for."""

    names: tuple[str, ...]
    begins: float
    expires: float


def certificates_in(pem: bytes) -> list[Certificate]:
    """Return the certificates that the text of a PEM file holds, in order.  Raises ValueError for what is none."""
    return [_read(_decoded(match[1])) for match in _PEM.finditer(pem)]


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except binascii.Error as exc:
        raise ValueError(f"no base64: {exc}") from None


def _read(der: bytes) -> Certificate:
    [whole] = _values(der)
    signed, *_ = _values(_content(whole, _SEQUENCE))
    fields = list(_values(_content(signed, _SEQUENCE)))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, ...
    if len(fields) < 6:
        raise ValueError("no certificate: fields are missing")
    times = [_time(each) for each in _values(_content(fields[3], _SEQUENCE))]
    if len(times) != 2:
        raise ValueError("no certificate: its validity has no two times")
    extensions = [content for tag, content in fields if tag == _EXTENSIONS]
    return Certificate(tuple(_names(extensions[0])) if extensions else (), *times)


_Value = tuple[int, bytes]
"""Tag and content."""


def _values(der: bytes) -> Iterator[_Value]:
    """Yield the values that stand one after the other in `der`."""
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("no DER: cut off")
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:  # X.690 8.1.3.5
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("no DER: cut off")
        yield tag, der[at : at + length]
        at += length


def _content(value: _Value, tag: int) -> bytes:
    if value[0] != tag:
        raise ValueError(f"no certificate: {tag:#x} was expected, not {value[0]:#x}")
    return value[1]


def _time(value: _Value) -> float:
    tag, content = value
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 4.1.2.5.1: 50 and later is the last century
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"no certificate: {tag:#x} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _names(extensions: bytes) -> Iterator[str]:
    [every] = _values(extensions)
    for extension in _values(_content(every, _SEQUENCE)):
        parts = list(_values(_content(extension, _SEQUENCE)))
        if not parts or _content(parts[0], _OID) != _SUBJECT_ALT_NAME:
            continue
        [names] = _values(_content(parts[-1], _OCTETS))
        for tag, content in _values(_content(names, _SEQUENCE)):
            if tag == _DNS_NAME:
                yield content.decode("ascii", "backslashreplace")
            elif tag == _IP_ADDRESS:
                yield str(ipaddress.ip_address(content))
