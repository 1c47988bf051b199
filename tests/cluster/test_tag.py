"""cluster/tag.py: a sid names its node, and only the cluster can make one that does."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.host import slot_name
from cluster.tag import SLOT, claimed_slot_of, mac, new_sid, shown_slot_of, slot_of, tag_of

SECRET = b"secret"
SLOTS = st.from_regex(SLOT, fullmatch=True)


@given(SLOTS, st.binary(max_size=64))
def test_a_sid_names_the_slot_that_made_it(slot: str, secret: bytes) -> None:
    """Any balancer that has the secret reads it back."""
    sid = new_sid(tag_of(slot, secret))
    assert slot_of(sid, secret) == slot
    assert claimed_slot_of(sid) == slot


@given(SLOTS)
def test_a_sid_needs_no_escaping_in_a_query(slot: str) -> None:
    """All of it is unreserved in RFC 3986 2.3."""
    assert set(new_sid(tag_of(slot, SECRET))) <= set(string.ascii_letters + string.digits + "-._~")


@given(SLOTS, st.binary(max_size=8), st.binary(max_size=8))
def test_another_secret_does_not_open_it(slot: str, one: bytes, two: bytes) -> None:
    """A sid of another cluster is placed as a new client's."""
    assert (slot_of(new_sid(tag_of(slot, one)), two) == slot) is (one.ljust(64, b"\0") == two.ljust(64, b"\0"))


@given(SLOTS, SLOTS)
def test_a_client_cannot_choose_its_node(slot: str, other: str) -> None:
    """The MAC of one slot is worthless with another."""
    mac_of = tag_of(slot, SECRET).rpartition("-")[2]
    assert slot_of(f"{other}-{mac_of}.x", SECRET) == (slot if slot == other else None)


@pytest.mark.parametrize(
    "sid",
    ["", ".", "-", "n3000", "n3000.x", "-abcdefgh.x", "n3000-.x", "n3000-abcdefgh", "N3000-abcdefgh.x", "n3000-ÄÖÜ.x",
     "n3000-\ud800.x", "../-abcdefgh.x", "n3000--abcdefgh.x", "a" * 100_000, "n" * 64 + "-abcdefgh.x"],
)  # fmt: skip
def test_what_is_no_sid_of_ours_names_no_slot(sid: str) -> None:
    """Whatever a client sends as its sid."""
    assert slot_of(sid, SECRET) is None


@given(st.text())
def test_no_text_at_all_breaks_it(sid: str) -> None:
    """The sid comes from outside."""
    assert slot_of(sid, SECRET) is None
    claimed_slot_of(sid)


@pytest.mark.parametrize("sid", ["", "abc", "n3000.x", "N-abc.x", "x y-abc.x", "n3000-abc"])
def test_what_claims_no_slot_claims_none(sid: str) -> None:
    """An Engine.IO server that makes sids of its own."""
    assert claimed_slot_of(sid) is None


def test_two_sids_differ() -> None:
    """120 random bits each."""
    tag = tag_of("n3000", SECRET)
    made = {new_sid(tag) for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(sid.partition(".")[2]) == 20 for sid in made)


def test_the_tag_is_the_same_for_ever() -> None:
    """Nodes and balancers of different releases must agree; HMAC-SHA256 of `sid NUL slot`, 40 bits, base32."""
    assert tag_of("n3000", b"secret") == "n3000-" + mac("sid", "n3000", b"secret", 5)
    assert tag_of("n3000", b"secret") == "n3000-zmim5qni"


def test_a_mac_is_worthless_for_another_purpose_and_grows_with_its_size() -> None:
    """The cookie's and the sid's are made with one secret."""
    assert mac("sid", "n3000", SECRET) != mac("cookie", "n3000", SECRET)
    assert mac("sid", "n3000", SECRET, 10).startswith(mac("sid", "n3000", SECRET, 5))
    # A separator, so that purpose and text cannot trade places.
    assert mac("a", "bc", SECRET) != mac("ab", "c", SECRET)


@pytest.mark.parametrize("private", [True, False])
def test_default_names_of_nodes_are_slots(private: bool) -> None:
    """`n3000`, and with the host's id where other hosts may have one too."""
    name = slot_name(3000, private_redis=private)
    assert SLOT.fullmatch(name)
    assert re.fullmatch(r"n3000" if private else r"n3000-[a-z2-7]{6}", name)


@given(st.from_regex(SLOT, fullmatch=True), st.binary(min_size=1))
def test_who_has_no_secret_knows_a_sid_by_its_form(slot: str, secret: bytes) -> None:
    """Of every slot and every secret."""
    assert shown_slot_of(new_sid(tag_of(slot, secret))) == slot


@pytest.mark.parametrize(
    "text",
    [
        "",
        "room",
        "news-sport.1",
        "n1-abcdefgh.short",
        "n1-abcdefg1.AAAAAAAAAAAAAAAAAAAA",
        "n1-abcdefgh.AAAAAAAAAAAAAAAAAAAA ",
    ],
)
def test_a_room_is_not_taken_for_a_sid(text: str) -> None:
    """Its members would not hear what is for it."""
    assert shown_slot_of(text) is None
