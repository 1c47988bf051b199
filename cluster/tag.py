"""The sid carries its node: `<slot>-<mac>.<random>`.  Pure.

Any balancer that has the cluster's secret routes any request with such a sid from the sid alone: no cookie, no table,
no dependence on the client's address.  The MAC keeps a client from choosing its node: without it anybody could aim all
of a crowd at one node by inventing sids.  It is short (40 bits) because it guards placement, not data; Engine.IO's own
random part remains the session's secret.

Every character used is unreserved in RFC 3986 2.3, so a sid needs no escaping in a query.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

SLOT = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
"""What a slot's (a node's) name looks like: a lower-case DNS label, underscores allowed."""

_MAC_BYTES = 5  # 40 bits are 8 characters of base32, without padding
_RANDOM_BYTES = 15
_SID = re.compile(rf"({SLOT.pattern})-[a-z2-7]{{8}}\.[A-Za-z0-9_-]{{20}}")


def mac(purpose: str, text: str, secret: bytes, size: int = _MAC_BYTES) -> str:
    """Return the first `size` bytes of HMAC-SHA256(secret, purpose NUL text) in lower-case base32.

    `purpose` separates the uses of one secret: a tag's MAC is worthless in a cookie.
    """
    digest = hmac.new(secret, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()[:size]
    return base64.b32encode(digest).decode().rstrip("=").lower()


def tag_of(slot: str, secret: bytes) -> str:
    """Return the tag that every sid of the node in `slot` begins with."""
    return f"{slot}-{mac('sid', slot, secret)}"


def new_sid(tag: str) -> str:
    """Return a fresh Engine.IO or Socket.IO sid of the node with this tag (120 random bits)."""
    return f"{tag}.{secrets.token_urlsafe(_RANDOM_BYTES)}"


def slot_of(sid: str, secret: bytes) -> str | None:
    """Return the slot that `sid` names, or None if it names none or its MAC is not ours."""
    tag, dot, _ = sid.partition(".")
    slot, dash, given = tag.rpartition("-")
    if not dot or not dash or not SLOT.fullmatch(slot):
        return None
    # A sid comes from outside, and may hold what cannot be encoded.
    return slot if hmac.compare_digest(given.encode(errors="replace"), mac("sid", slot, secret).encode()) else None


def shown_slot_of(text: str) -> str | None:
    """Return the slot in a text that has exactly the form of a sid, unverified: for who has not the secret.

    It does no harm to take a room's name for a sid, but the room's members would not hear of it; no room is called so
    by chance.
    """
    match = _SID.fullmatch(text)
    return None if match is None else match[1]


def claimed_slot_of(sid: str) -> str | None:
    """Return the slot that `sid` claims, unverified: only for sids that come from a node itself (a probe's)."""
    tag, dot, _ = sid.partition(".")
    slot, dash, _ = tag.rpartition("-")
    return slot if dot and dash and SLOT.fullmatch(slot) else None
