"""Who a client is: sid, cookie, address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Config, Cookie
from cluster.proxies import TrustedProxies, canonical, parse_address
from cluster.tag import tag_of
from lb.affinity import (
    MOST_COOKIES,
    Recogniser,
    cookie_value,
    masked,
    set_cookie,
    slot_in_cookies,
    slot_in_query,
)

SECRET = b"s"
SID = f"{tag_of('n3000', SECRET)}.M4p6uv9h9sIgv_te3KMH"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (f"/socket.io/?EIO=4&transport=polling&sid={SID}", (True, "n3000")),
        (f"/socket.io/?sid={SID}&t=1", (True, "n3000")),
        (f"/socket.io/?sid={SID.replace('-', '%2D')}", (True, "n3000")),
        (f"/socket.io/?sid={SID}#sid=x", (True, "n3000")),
        ("/socket.io/?sid=abcdef", (True, None)),
        ("/socket.io/?sid=", (True, None)),
        ("/socket.io/?sid=n3000-aaaaaaaa.xyz", (True, None)),
        ("/socket.io/?sid=%FF-%C3%A9.x", (True, None)),
        ("/socket.io/?sid=\udcff-x.y", (True, None)),
        (f"/socket.io/?xsid={SID}", (False, None)),
        (f"/sid={SID}", (False, None)),
        ("/", (False, None)),
        ("*", (False, None)),
    ],
)
def test_the_sid_in_the_query_names_its_node(target: str, expected: tuple[bool, str | None]) -> None:
    """Wherever it stands, however it is escaped; and never one whose MAC is not ours."""
    assert slot_in_query(target, SECRET) == expected


@given(st.text())
def test_no_target_is_too_odd(target: str) -> None:
    """Whatever a client sends, the answer is a slot that we signed, or none."""
    assert slot_in_query(f"/?sid={target}", SECRET)[1] is None


@pytest.mark.parametrize("slot", ["n3000", "n3000-abc", "10.0.0.5:3000", "[::1]:3000"])
def test_a_cookie_of_ours_names_its_slot_among_others(slot: str) -> None:
    """Also a node of another make, which is called after its address."""
    value = cookie_value(slot, SECRET).encode()
    header = b'a=1; c_node="x"; c_node=' + value + b"; b=2"
    assert slot_in_cookies([b"z=1", header], "c_node", SECRET) == slot
    assert slot_in_cookies([header], "node", SECRET) is None


@pytest.mark.parametrize(
    "value", [b"n3000", b"n3000.", b"n3000.aaaaaaaa", b".", b"", b"\xff.\xff", b"x" * 4000, b"n3000." + b"\xe9" * 8]
)
def test_a_forged_cookie_is_no_cookie(value: bytes) -> None:
    """It is ignored, not an error."""
    assert slot_in_cookies([b"c=" + value], "c", SECRET) is None


def test_a_client_cannot_make_us_verify_cookies_without_end() -> None:
    """The first few of our name count, in however many headers they come."""
    forged, ours = b"c=n3000.aaaaaaaa; ", b"c=" + cookie_value("n3000", SECRET).encode()
    assert slot_in_cookies([forged * (MOST_COOKIES - 2), forged + ours], "c", SECRET) == "n3000"
    assert slot_in_cookies([forged * (MOST_COOKIES - 1), forged + ours], "c", SECRET) is None


def test_a_sids_mac_is_worthless_in_a_cookie() -> None:
    """Each use of the secret has its purpose."""
    tag = SID.partition(".")[0]
    slot, _, mac = tag.rpartition("-")
    assert slot_in_cookies([f"c={slot}.{mac}".encode()], "c", SECRET) is None
    assert slot_in_cookies([f"c={cookie_value(slot, b'other')}".encode()], "c", SECRET) is None


def test_the_cookies_attributes_are_the_configured_ones() -> None:
    """HttpOnly always; it is for the whole site."""
    value = cookie_value("n1", SECRET)
    assert set_cookie("c", Cookie(), "n1", SECRET) == f"c={value}; Path=/; HttpOnly; SameSite=Lax"
    strict = Cookie(secure=True, same_site="none")
    assert set_cookie("c", strict, "n1", SECRET) == f"c={value}; Path=/; HttpOnly; SameSite=None; Secure"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:1234 ", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("192.0.2.1.5", None),
    ],
)
def test_addresses_are_read_as_proxies_write_them(text: str, expected: str | None) -> None:
    """With ports, in brackets, IPv4 inside IPv6; and what is none is None."""
    address = parse_address(text)
    assert (None if address is None else str(address)) == expected


PROXIES = TrustedProxies.of(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", [b"198.51.100.7"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"6.6.6.6, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"6.6.6.6, 198.51.100.7, 10.2.2.2"], "198.51.100.7"),
        ("10.0.0.1", [b"6.6.6.6", b"198.51.100.7:99"], "198.51.100.7"),
        ("10.0.0.1", [b"10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.0.0.1", [b"198.51.100.7", b""], "198.51.100.7"),
        ("10.0.0.1", [b"6.6.6.6, garbage, 10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1", [b"\xff"], "10.0.0.1"),
        ("fd00::1", [b"2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
    ],
)
def test_the_client_is_the_rightmost_address_that_no_trusted_proxy_has(
    peer: str, forwarded: list[bytes], expected: str
) -> None:
    """What stands left of it anybody may have written."""
    assert PROXIES.client_of(peer, forwarded) == expected


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    """The default believes nobody; a peer that is no IP address (a unix socket) has one all the same."""
    assert TrustedProxies().client_of("203.0.113.9", [b"1.2.3.4"]) == "203.0.113.9"
    assert TrustedProxies().client_of("", []) == ""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
    ],
)
def test_a_client_is_its_address_or_its_64(address: str, expected: str) -> None:
    """IPv6 hosts change their address within their /64 (RFC 8981)."""
    assert masked(address) == expected


def test_addresses_have_one_spelling() -> None:
    """Or none of ours."""
    assert canonical("::FFFF:192.0.2.1") == "192.0.2.1"
    assert canonical("nowhere") == "nowhere"


def recogniser(**lb: object) -> Recogniser:
    return Recogniser.of(Config.model_validate({"secret": "s", "lb": lb}))


def test_everything_is_recognised_together() -> None:
    """One request, all that it says."""
    cookie = f"flotilla_node={cookie_value('n3001', SECRET)}".encode()
    client = recogniser().recognise(f"/?sid={SID}", [cookie], "192.0.2.1", [])
    assert (client.sid, client.session, client.cookie, client.address) == (True, "n3000", "n3001", "192.0.2.1")


def test_a_cookie_counts_only_where_cookies_are_the_way() -> None:
    """With another stickiness an old cookie must not place anybody."""
    cookie = f"flotilla_node={cookie_value('n3001', SECRET)}".encode()
    assert recogniser(stickiness="ip_hash").recognise("/", [cookie], "192.0.2.1", []).cookie is None


def test_trust_is_a_matter_of_the_peer() -> None:
    """Nobody is trusted by default."""
    assert recogniser(trusted_proxies=["10.0.0.0/8"]).trusts("10.1.2.3")
    assert not recogniser(trusted_proxies=["10.0.0.0/8"]).trusts("192.0.2.1")
    assert not recogniser().trusts("127.0.0.1")
