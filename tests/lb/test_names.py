"""Which certificate has the name that is asked for, beside OpenSSL's view of the same names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from lb.names import Names

TITLES = ("lb.tls", "lb.tls.more.0", "lb.tls.more.1", "lb.tls.more.2")


@pytest.mark.parametrize(
    ("asked", "owner"),
    [
        ("chat.example", 0),
        ("CHAT.Example", 0),
        ("chat.example.", 0),
        ("shop.example", 1),
        ("a.shop.example", 1),
        ("special.shop.example", 2),
        ("b.a.shop.example", None),
        (".shop.example", None),
        ("*.shop.example", 1),
        ("example", None),
        ("shop.example.org", None),
        ("partial.example", None),
        ("127.0.0.1", None),
        ("", None),
        ("..", None),
    ],
)
def test_a_name_belongs_to_who_says_it_or_stars_its_first_label(asked: str, owner: int | None) -> None:
    """The whole of that label, and no other (RFC 9525 6.3); a name itself goes before a star, wherever it stands."""
    names = Names(
        [
            ["chat.example", "127.0.0.1", "::1"],
            ["Shop.example", "*.shop.example", "p*.example", "a.*.example", "*"],
            ["special.shop.example"],
        ]
    )
    assert names.owner(asked) == owner


def test_of_several_that_have_a_name_the_first_gets_it_and_an_operator_is_told() -> None:
    """Of names in vain, all of them or some, and of pairs without any."""
    many = [f"{letter}.example" for letter in "abcde"]
    names = Names(
        [["chat.example", "chat.example", *many], many, ["chat.example", "Chat.example", "x.example"], ["::1"]]
    )
    assert names.owner("chat.example") == 0
    assert list(names.remarks(TITLES)) == [
        (1, "lb.tls.more.0: who asks for a.example, b.example, c.example and 2 more gets lb.tls, which comes first"),
        (2, "lb.tls.more.1: who asks for chat.example gets lb.tls, which comes first"),
        (3, "lb.tls.more.2: has no name that a client could ask for; nobody gets it"),
    ]


def test_the_first_need_not_have_a_name() -> None:
    """All others are its."""
    assert list(Names([[], ["a.example"]]).remarks(TITLES)) == []


@pytest.mark.parametrize("name", ["*.chat.example", "chat.example"])
@pytest.mark.parametrize(
    "asked", ["chat.example", "a.chat.example", "a.b.chat.example", "xchat.example", "A.CHAT.example"]
)
def test_who_gets_a_certificate_by_its_name_accepts_it(name: str, asked: str, tmp_path: Path) -> None:
    """And who does not get it would not."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(client)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=asked),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    accepted = True
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                accepted = False
            except ssl.SSLError:
                continue  # the other one refused
    assert accepted is (Names([["other.example"], [name]]).owner(asked) == 1)
