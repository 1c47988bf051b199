"""cluster/origin.py: one spelling for each origin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.origin import canonical, canonical_pattern

LABELS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-", min_size=1, max_size=12)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
SCHEMES = st.sampled_from(["http", "https", "HTTP", "Https", "ws", "capacitor", "chrome-extension"])
PORTS = st.none() | st.integers(1, 65_535)


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("https://chat.example.com", "https://chat.example.com"),
        ("HTTPS://Chat.Example.COM", "https://chat.example.com"),
        ("https://a:443", "https://a"),
        ("http://a:80", "http://a"),
        ("https://a:80", "https://a:80"),
        ("http://a:08080", "http://a:8080"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0::1]", "http://[::1]"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("file://", "file://"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_has_one_spelling(text: str, spelt: str) -> None:
    """Lower case, and without the port that the scheme means anyway (RFC 6454 6.2)."""
    assert canonical(text) == spelt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "*",
        "example.com",
        "https:",
        "https:/a",
        "https://",
        "https://:443",
        "https://a/",
        "https://a/path",
        "https://a?x",
        "https://a#x",
        "https://user@a",
        "https://a:b",
        "https://a:",
        "https://a:0",
        "https://a:65536",
        "https://a b",
        "https://a https://b",
        "https://a,https://b",
        "https://a\n",
        " https://a",
        "https://.a",
        "https://a..b",
        "https://*.a",
        "https://[::1",
        "https://[zz]",
        "https://[1:2]",
        "https://b\xfccher",
        "file://:80",
        "1http://a",
    ],
)
def test_what_is_no_origin_has_none(text: str) -> None:
    """Also what a browser would never send: nobody shall guess what it might mean."""
    assert canonical(text) is None


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("null", "null"),
        ("https://A.example:443", "https://a.example"),
        ("https://*.Example.com:443", "https://*.example.com"),
        ("http://*.localhost:3000", "http://*.localhost:3000"),
    ],
)
def test_a_pattern_may_be_null_or_leave_the_subdomain_open(text: str, spelt: str) -> None:
    """And is kept as origins are spelt."""
    assert canonical_pattern(text) == spelt


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "*.a",
        "https://*",
        "https://*.",
        "https://*.*.a",
        "https://a.*",
        "https://x*.a",
        "https://*.[::1]",
        "https://*.:80",
        "https://*..a",
        "file://*.",
        "NULL",
        "//*.a",
        "https://*.a/",
    ],
)
def test_a_star_stands_for_whole_labels_in_front(text: str) -> None:
    """Nowhere else, and not for everything: an empty list says that."""
    assert canonical_pattern(text) is None


@given(SCHEMES, HOSTS, PORTS)
def test_spelling_it_again_changes_nothing(scheme: str, host: str, port: int | None) -> None:
    """And how it was written makes no difference."""
    text = f"{scheme}://{host}" + (f":{port}" if port else "")
    spelt = canonical(text)
    assert spelt is not None
    assert canonical(spelt) == canonical(text.upper()) == canonical(text.lower()) == spelt
    assert canonical_pattern(text) == spelt


@given(st.text(max_size=60))
def test_any_text_has_a_spelling_or_none(text: str) -> None:
    """Never an error; and what has one keeps it."""
    for spell in (canonical, canonical_pattern):
        spelt = spell(text)
        assert spelt is None or spell(spelt) == spelt
