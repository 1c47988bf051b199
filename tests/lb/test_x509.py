"""What is read of a certificate, beside what another reader of certificates reads of it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import lru_cache

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from lb.x509 import Certificate, certificates_in


@lru_cache
def authority() -> trustme.CA:
    return trustme.CA()


def pem(*names: str, until: datetime = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)) -> bytes:
    return bytes(authority().issue_cert(*names, not_after=until).cert_chain_pems[0].bytes())


def der(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.splitlines()[1:-1]))


def in_pem(content: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(content) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("year", [2049, 2050, 2099, 9999])
def test_names_and_times_are_those_of_the_certificate(year: int) -> None:
    """In both forms that times have, before 2050 and from then on."""
    names = ("chat.example", "*.chat.example", "127.0.0.1", "2001:db8::1")
    text = pem(*names, until=datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC))
    theirs = x509.load_pem_x509_certificate(text)
    assert certificates_in(text) == [
        Certificate(names, theirs.not_valid_before_utc.timestamp(), theirs.not_valid_after_utc.timestamp())
    ]


def test_a_file_may_hold_several_and_other_things() -> None:
    """In their order; keys and remarks are passed over; lines may end as on Windows."""
    first, second = pem("a"), pem("b").replace(b"\n", b"\r\n")
    issued = authority().issue_cert("c")
    found = certificates_in(b"remark\n" + first + issued.private_key_pem.bytes() + second)
    assert [each.names for each in found] == [("a",), ("b",)]
    assert certificates_in(b"") == certificates_in(issued.private_key_pem.bytes()) == []


def test_one_without_names_or_extensions_is_read_as_well() -> None:
    """An authority's own has no names."""
    [found] = certificates_in(authority().cert_pem.bytes())
    assert found.names == ()


@given(at=st.integers(0, 10_000), octet=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_one_is_read_or_refused(at: int, octet: int, cut: bool) -> None:
    """Never anything else, whichever byte is another one or the first that is missing."""
    content = bytearray(der(_whole()))
    at %= len(content)
    content[at] = octet
    try:
        certificates_in(in_pem(bytes(content[:at] if cut else content)))
    except ValueError:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """As they are, and as the content of a PEM block."""
    for text in (content, in_pem(content), b"-----BEGIN CERTIFICATE-----\n" + content + b"-----END CERTIFICATE-----"):
        try:
            certificates_in(text)
        except ValueError:
            continue


@lru_cache
def _whole() -> bytes:
    return pem("chat.example", "127.0.0.1")
