"""The first bytes of a TLS connection: real ClientHellos, cut anywhere, and anything else."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.client_hello import HEADER, MOST_RECORD, Opening, opening, protocols


def hello(*offered: str, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """Return what a real client sends first."""
    context = ssl.create_default_context()
    context.maximum_version = most
    if offered:
        context.set_alpn_protocols(list(offered))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="chat.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("offered", "found"),
    [
        ((), Opening.HELLO),
        (("http/1.1",), Opening.HELLO),
        (("h2", "http/1.1"), Opening.HELLO),
        (("h2",), Opening.OTHER_PROTOCOL),
        (("acme-tls/1",), Opening.OTHER_PROTOCOL),
    ],
)
def test_a_real_clients_offer_is_read(offered: tuple[str, ...], found: Opening, most: ssl.TLSVersion) -> None:
    """Of both versions of TLS; no offer is no reason to refuse (RFC 7301 3.2)."""
    record = hello(*offered, most=most)
    assert protocols(record[HEADER:]) == [each.encode() for each in offered]
    assert opening(record) is found
    assert opening(record + b"more") is found


def test_until_it_is_whole_it_says_how_much_is_needed() -> None:
    """Wherever it is cut, more than there is, and never more than the record has."""
    record = hello("h2")
    for cut in range(len(record)):
        needed = opening(record[:cut])
        assert isinstance(needed, int)
        assert cut < needed <= len(record)
        if cut >= HEADER:
            assert needed == len(record)


def test_a_hello_in_several_records_is_left_to_tls() -> None:
    """What is offered is in the next one, perhaps."""
    record = hello("h2")
    half = record[HEADER : HEADER + 100]
    assert opening(b"\x16\x03\x01" + len(half).to_bytes(2, "big") + half) is Opening.HELLO


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "CONNECT", "PRI"])
def test_plain_http_is_known_by_its_method(method: str) -> None:
    """As soon as that is there."""
    request = f"{method} / HTTP/1.1\r\n".encode()
    for cut in range(len(method) + 1):
        assert opening(request[:cut]) == cut + 1
    assert opening(request[: len(method) + 1]) is Opening.HTTP
    assert opening(request) is Opening.HTTP


@pytest.mark.parametrize(
    "received", [b"\0", b"get / ", b"G T", b"GET\t/", b"SSH-2.0", b"A" * 13, b"\x15\x03\x01", b"\x16\x02\x00\x00\x05"]
)
def test_anything_else_is_garbage(received: bytes) -> None:
    """Known at once."""
    assert opening(received) is Opening.GARBAGE


@pytest.mark.parametrize(("size", "is_garbage"), [(0, True), (1, False), (MOST_RECORD, False), (MOST_RECORD + 1, True)])
def test_no_record_is_longer_than_tls_allows(size: int, is_garbage: bool) -> None:
    """So nobody makes us wait for 64 KiB."""
    found = opening(b"\x16\x03\x01" + size.to_bytes(2, "big"))
    assert (found is Opening.GARBAGE) is is_garbage


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: b"\x16\x03\x01\x00\x40" + rest)))
def test_any_bytes_are_an_opening_or_need_more(received: bytes) -> None:
    """More than there are: nobody waits for what is there."""
    found = opening(received)
    assert isinstance(found, Opening) or len(received) < found <= HEADER + MOST_RECORD


@given(at=st.integers(0, 1000), octet=st.integers(0, 255))
def test_a_damaged_hello_is_read_or_passed_over(at: int, octet: int) -> None:
    """Whichever byte is another one."""
    record = bytearray(_RECORD)
    record[at % len(record)] = octet
    assert isinstance(protocols(bytes(record)), list)


_RECORD = hello("h2", "http/1.1")[HEADER:]
