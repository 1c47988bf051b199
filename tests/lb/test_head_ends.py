"""Heads end where they end, in whatever pieces they come: lb/head_ends.py."""

from __future__ import annotations

from lb.head_ends import HeadEnds

ONE, OTHER = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD /b HTTP/1.1\r\nHost: b\r\n\r\n"


def heads_in(*pieces: bytes) -> list[bytes]:
    """Return what each head is found to be, without the empty lines before it, as lb/downstream.py asks for them."""
    ends, heads, head = HeadEnds(), list[bytes](), b""
    for data in pieces:
        at = 0
        while at < len(data):
            end = ends.find(data, at)
            head += data[at:end]
            if head.endswith(b"\r\n\r\n") and head.strip():
                ends.found()
                heads.append(head.lstrip(b"\r\n"))
                head = b""
            else:
                ends.missed(data[at:end])
            at = end
    return heads


def test_each_of_several_heads_in_one_piece_ends_by_itself() -> None:
    """Empty lines before a head belong to it: they are no head (RFC 9112 2.2)."""
    assert heads_in(b"\r\n\r\n" + ONE + OTHER + b"\r\n\r\n\r\n" + ONE) == [ONE, OTHER, ONE]


def test_a_head_ends_wherever_it_was_divided() -> None:
    """In two pieces, or three, or each byte by itself; also within the line ends that are its end."""
    sent = b"\r\n" + ONE + OTHER
    for first in range(1, len(sent)):
        for second in range(first, len(sent)):
            assert heads_in(sent[:first], sent[first:second], sent[second:]) == [ONE, OTHER]
    assert heads_in(*(sent[at : at + 1] for at in range(len(sent)))) == [ONE, OTHER]
