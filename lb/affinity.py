"""Who is this client, and where does it belong?  Pure.

Three things can tell, in this order: the Engine.IO sid in the query names the node that has the session; the signed
cookie names the node that had the client before; the client's address, masked, gives everybody behind it a stable
choice.  The first names where the client *is*; the other two only place a new session.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote

from cluster.config import Config, Cookie
from cluster.proxies import TrustedProxies, parse_address
from cluster.tag import mac, slot_of
from lb.headers import Headers, values

_PURPOSE = "cookie"

MOST_COOKIES = 8


@dataclass(frozen=True, slots=True)
class Client:
    """What a request says of where its client belongs."""

    sid: bool
    """It belongs to a session, whether or not the sid names a node."""
    session: str | None
    """The slot that the sid names, verified."""
    cookie: str | None
    """The slot that the cookie names, verified."""
    address: str
    """The masked address: what rendezvous hashing is over."""
    begins: bool = False
    """It asks for an Engine.IO session: one more client, whatever the transport."""


def slot_in_query(target: str, secret: bytes) -> tuple[bool, str | None]:
    """Return whether the request target has a `sid`, and the slot that it names, if it is one of ours."""
    _, _, query = target.partition("?")
    if "sid=" not in query:
        return False, None
    for pair in query.partition("#")[0].split("&"):
        name, _, value = pair.partition("=")
        if name == "sid":
            sid = unquote(value) if "%" in value else value
            return True, slot_of(sid, secret) if sid.isascii() else None
    return False, None


@lru_cache(maxsize=1024)
def cookie_value(slot: str, secret: bytes) -> str:
    """Return the value of the cookie that names `slot`.  Remembered: there are few slots, and many requests."""
    return f"{slot}.{mac(_PURPOSE, slot, secret)}"


def slot_in_cookies(headers: Iterable[bytes], name: str, secret: bytes) -> str | None:
    """Return the slot that the first valid cookie `name` names; `headers` are the values of Cookie (RFC 6265 5.4).

    Of several cookies of that name, which other paths or domains may have set, the first MOST_COOKIES count: each is
    work, and a client may send tens of thousands.
    """
    prefix = f"{name}=".encode()
    for value in islice(_cookies(headers, prefix), MOST_COOKIES):
        if (slot := _verified(value, secret)) is not None:
            return slot
    return None


def _cookies(headers: Iterable[bytes], prefix: bytes) -> Iterator[bytes]:
    for header in headers:
        if prefix in header:
            for pair in header.split(b";"):
                pair = pair.strip()
                if pair.startswith(prefix):
                    yield pair[len(prefix) :]


def _verified(value: bytes, secret: bytes) -> str | None:
    text = value.strip(b'"').decode("latin-1")
    # A node of another make may be called after its address, which is no slot; its cookie is signed all the same.
    slot = text.rpartition(".")[0]
    if not slot.isascii() or len(slot) > _MOST_SLOT:
        return None
    return slot if hmac.compare_digest(text.encode(), cookie_value(slot, secret).encode()) else None


_MOST_SLOT = 255


def set_cookie(name: str, attributes: Cookie, slot: str, secret: bytes) -> str:
    """Return the value of the Set-Cookie header that sticks a client to `slot` (RFC 6265 4.1)."""
    parts = [f"{name}={cookie_value(slot, secret)}", "Path=/", "HttpOnly", f"SameSite={attributes.same_site.title()}"]
    if attributes.secure:
        parts.append("Secure")
    return "; ".join(parts)


@lru_cache(maxsize=4096)
def masked(address: str) -> str:
    """Return the network that stands for a client: /32 of IPv4; /64 of IPv6, in which a host may change."""
    parsed = parse_address(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


@dataclass(frozen=True)
class Recogniser:
    """Reads from a request who its client is, by one cluster's secret and one configuration."""

    secret: bytes
    cookie_name: str
    proxies: TrustedProxies
    cookies: bool
    """Whether the cookie counts (`lb.stickiness: cookie`)."""

    @classmethod
    def of(cls, config: Config) -> Recogniser:
        return cls(
            secret=config.secret.encode(),
            cookie_name=config.cookie_name,
            proxies=TrustedProxies.of(config.lb.trusted_proxies),
            cookies=config.lb.stickiness == "cookie",
        )

    def trusts(self, peer: str) -> bool:
        """Tell whether what `peer` says in X-Forwarded headers counts."""
        return bool(self.proxies.networks) and parse_address(peer) in self.proxies

    def recognise_request(self, target: str, headers: Headers, peer: str) -> Client:
        """Return what the request with this target and these headers says of its client."""
        return self.recognise(target, values(headers, b"cookie"), peer, values(headers, b"x-forwarded-for"))

    def recognise(self, target: str, cookies: Sequence[bytes], peer: str, forwarded_for: Sequence[bytes]) -> Client:
        """Return what the request with this target and these header values says of its client."""
        return self.client(target, self._slot(cookies), masked(self.proxies.client_of(peer, forwarded_for)))

    def recognise_fields(self, headers: Headers, peer: str) -> tuple[str | None, str]:
        """Return what the headers alone say: the slot that the cookie names, verified, and the masked address."""
        address = masked(self.proxies.client_of(peer, values(headers, b"x-forwarded-for")))
        return self._slot(values(headers, b"cookie")), address

    def client(self, target: str, slot: str | None, address: str) -> Client:
        """Return the client of a request with this target, whose headers say the rest (`recognise_fields`)."""
        sid, session = slot_in_query(target, self.secret)
        return Client(sid=sid, session=session, cookie=slot, address=address, begins=not sid and "EIO=" in target)

    def _slot(self, cookies: Sequence[bytes]) -> str | None:
        return slot_in_cookies(cookies, self.cookie_name, self.secret) if self.cookies and cookies else None
