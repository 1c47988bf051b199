"""The first bytes of a TLS connection: real ClientHellos, cut anywhere, and anything else."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.client_hello import HEADER, MOST_OPENING, MOST_RECORD, MOST_RECORDS, Hello, Opening, hello_in, opening


def hello(*offered: str, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, host: str = "chat.example") -> bytes:
    """Return what a real client sends first."""
    context = ssl.create_default_context()
    context.maximum_version = most
    if offered:
        context.set_alpn_protocols(list(offered))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("offered", [(), ("http/1.1",), ("h2", "http/1.1"), ("h2",), ("acme-tls/1",)])
def test_what_a_real_client_asks_for_and_offers_is_read(offered: tuple[str, ...], most: ssl.TLSVersion) -> None:
    """Of both versions of TLS; no offer is no reason to refuse (RFC 7301 3.2)."""
    record = hello(*offered, most=most)
    found = Hello("chat.example", tuple(each.encode() for each in offered))
    assert hello_in(record[HEADER:]) == found
    wanted = found if not offered or "http/1.1" in offered else Opening.OTHER_PROTOCOL
    assert opening(record) == opening(record + b"more") == wanted


def test_who_asks_for_nobody_has_no_name() -> None:
    """As clients that were given an address (RFC 6066 3), and a name of another kind."""
    assert opening(hello("http/1.1", host="127.0.0.1")) == Hello("", (b"http/1.1",))
    kind_and_length = b"\0" + len(b"chat.example").to_bytes(2, "big")
    odd = hello().replace(kind_and_length + b"chat.example", b"\7" + kind_and_length[1:] + b"chat.example")
    assert opening(odd) == Hello()


def test_a_name_that_is_no_text_is_one_that_nobody_has() -> None:
    """OpenSSL takes it, and so a client may send it."""
    assert opening(hello().replace(b"chat", b"\xff\0\n.")) == Hello("\\xff\0\n..example")


def test_until_it_is_whole_it_says_how_much_is_needed() -> None:
    """Wherever it is cut, more than there is, and never more than the record has."""
    record = hello("h2")
    for cut in range(len(record)):
        needed = opening(record[:cut])
        assert isinstance(needed, int)
        assert cut < needed <= len(record)
        if cut >= HEADER:
            assert needed == len(record)


def cut(record: bytes, *sizes: int) -> bytes:
    """Return the message of `record` in records of these sizes, and one of what is left."""
    message, records = record[HEADER:], b""
    for size in (*sizes, len(message)):
        piece, message = message[:size], message[size:]
        records += record[:3] + len(piece).to_bytes(2, "big") + piece
    return records


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1, 1), (100,), (3, 200, 7)])
def test_a_hello_in_several_records_is_read_as_one(sizes: tuple[int, ...]) -> None:
    """As some clients send it, wherever it is cut (RFC 8446 5.1)."""
    records = cut(hello("http/1.1"), *sizes)
    for size in range(len(records)):
        needed = opening(records[:size])
        assert isinstance(needed, int)
        assert size < needed <= len(records)
    assert opening(records) == opening(hello("http/1.1"))
    assert opening(cut(hello("h2"), *sizes)) is Opening.OTHER_PROTOCOL


def test_what_is_no_plain_hello_is_left_to_tls() -> None:
    """Too many records, too many bytes, another message, or something else in the middle of it."""
    record = hello("h2")
    start = record[:3] + b"\0\4\1\0\1\0"
    assert opening(cut(record, *[1] * MOST_RECORDS)) == Hello()
    assert opening(cut(record, *[1] * (MOST_RECORDS - 1))) is Opening.OTHER_PROTOCOL
    assert opening(b"\x16\3\1\x40\0\1\0\x7f\xff".ljust(HEADER + 2**14, b"x") + b"\x16\3\1\x40\0") == Hello()
    assert opening(record[:3] + b"\0\1\2") == Hello()
    for odd in (b"\x15\3\1\0\1", b"\x16\2\1\0\1", b"\x16\3\1\0\0"):
        assert opening(start + odd) == Hello()


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
    assert not isinstance(found, int) or len(received) < found <= MOST_OPENING


@given(at=st.integers(0, 1000), octet=st.integers(0, 255))
def test_a_damaged_hello_is_read_or_passed_over(at: int, octet: int) -> None:
    """Whichever byte is another one."""
    message = bytearray(_MESSAGE)
    message[at % len(message)] = octet
    assert isinstance(hello_in(bytes(message)), Hello)


_MESSAGE = hello("h2", "http/1.1")[HEADER:]
