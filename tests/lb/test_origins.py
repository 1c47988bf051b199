"""lb/origins.py: whose pages are let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Config
from lb.origins import MOST_BYTES, AllowedOrigins
from tests.cluster.test_origin import HOSTS, LABELS, PORTS, SCHEMES


def allowed(*patterns: str) -> AllowedOrigins:
    """Return the list as a configuration gives it."""
    config = Config.model_validate({"lb": {"allowed_origins": list(patterns)}})
    return AllowedOrigins.of(config.lb.allowed_origins)


LIST = allowed("https://Chat.example.com", "https://*.example.org", "http://localhost:3000", "capacitor://localhost")


@pytest.mark.parametrize(
    "value",
    [
        b"https://chat.example.com",
        b"HTTPS://CHAT.EXAMPLE.COM",
        b"https://chat.example.com:443",
        b"https://a.example.org",
        b"https://a.b.example.org:443",
        b"https://A.Example.org",
        b"http://localhost:3000",
        b"capacitor://localhost",
    ],
)
def test_who_is_named_is_let_in_however_it_is_spelt(value: bytes) -> None:
    """Scheme and host have no case, and 443 is what https means."""
    assert LIST.allow(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"*",
        b"http://chat.example.com",
        b"https://chat.example.com:8443",
        b"https://chat.example.com.evil.example",
        b"https://evil-chat.example.com",
        b"https://chat.example.com/",
        b"https://chat.example.com https://evil.example",
        b"https://chat.example.com, https://evil.example",
        b"https://example.com",
        b"https://example.org",
        b"https://.example.org",
        b"https://*.example.org",
        b"https://evilexample.org",
        b"https://a.example.org:444",
        b"http://a.example.org",
        b"https://a@.example.org",
        b"https://evil.example/.example.org",
        b"https://evil.example?.example.org",
        b"https://evil.example\\.example.org",
        b"https://evil.example\x00.example.org",
        b"https://b\xfccher.example.org",
        b"http://localhost",
        b"https://" + b"a" * MOST_BYTES + b".example.org",
    ],
)
def test_who_is_not_named_is_not(value: bytes) -> None:
    """However close it comes."""
    assert not LIST.allow(value)


def test_a_page_without_an_origin_must_be_named_as_well() -> None:
    """`null` is what any page can make itself be: a sandboxed frame is enough."""
    assert allowed("null").allow(b"null")
    assert not allowed("null").allow(b"NULL")
    assert not allowed("https://*.a").allow(b"null")


@given(SCHEMES, HOSTS, PORTS, LABELS)
def test_a_pattern_lets_in_what_is_below_it_and_nothing_else(
    scheme: str, host: str, port: int | None, label: str
) -> None:
    """Any subdomain, never the domain itself, never a name that only ends alike."""
    tail = host + (f":{port}" if port else "")
    below, exact = allowed(f"{scheme}://*.{tail}"), allowed(f"{scheme}://{tail}")
    assert below.allow(f"{scheme}://{label}.{tail}".encode())
    assert not below.allow(f"{scheme}://{tail}".encode())
    assert not below.allow(f"{scheme}://{label}{tail}".encode())
    assert not below.allow(f"x{scheme}://{label}.{tail}".encode())
    assert exact.allow(f"{scheme}://{tail}".encode())
    assert not exact.allow(f"{scheme}://{label}.{tail}".encode())
    assert not exact.allow(f"{scheme}://{tail}.{label}".encode())


@given(st.binary(max_size=MOST_BYTES + 10))
def test_no_value_is_an_error(value: bytes) -> None:
    """Whatever a client sends is let in or not."""
    assert LIST.allow(value) in (True, False)
