"""What clients may send to the chat.  Pure: each function returns the checked value or raises BadInput."""

from __future__ import annotations

from collections.abc import Mapping

MAX_USERNAME = 32
MAX_TEXT = 2000


class BadInput(ValueError):
    """A client sent what the chat does not take; the text tells its user what is allowed."""


def username_in(data: object) -> str:
    """Return the username in `{username}` or a plain string: 1 to 32 printable characters, trimmed."""
    raw = _field(data, "username")
    name = raw.strip() if isinstance(raw, str) else ""
    if not 1 <= len(name) <= MAX_USERNAME or not name.isprintable():
        raise BadInput(f"username must have 1 to {MAX_USERNAME} printable characters")
    return name


def text_in(data: object) -> str:
    """Return the text in `{text}`, `{message}` or a plain string: 1 to 2000 characters, not only white space."""
    raw = _field(data, "text", "message")
    # Half of a surrogate pair is no character: it could not be encoded for the other clients.
    if not isinstance(raw, str) or not raw.strip() or len(raw) > MAX_TEXT or not _is_encodable(raw):
        raise BadInput(f"text must have 1 to {MAX_TEXT} characters")
    return raw


def _field(data: object, *names: str) -> object:
    if not isinstance(data, Mapping):
        return data
    return next((data[name] for name in names if name in data), None)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
