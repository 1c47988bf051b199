"""Plain data: what every process, and every format that may carry it, understands the same way.  Pure."""

from __future__ import annotations

from typing import Any

MOST_DEPTH = 100
"""Of lists and dicts in each other: what carries a session may end where Python's own depth does, or long before."""


class NotPortable(Exception):
    """A session cannot be moved now, or what came is no session of this version."""


def check_plain(value: Any, where: str, depth: int = MOST_DEPTH) -> None:
    """Raises NotPortable, naming what and where, unless `value` is of None, numbers, text, bytes, lists and dicts."""
    if not depth:
        raise NotPortable(f"{where[:60]}… is nested more than {MOST_DEPTH} deep")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise NotPortable(f"{where} has a key of type {type(key).__name__}")
            if isinstance(key, int) and not _fits(key):
                raise NotPortable(f"{where} has a key that is an integer of more than 64 bits")
            check_plain(each, f"{where}[{key!r}]", depth - 1)
    elif isinstance(value, list):
        for each in value:
            check_plain(each, f"{where}[]", depth - 1)
    elif isinstance(value, int) and not _fits(value):
        raise NotPortable(f"{where} is an integer of more than 64 bits")
    elif not isinstance(value, bytes | str | int | float | None):
        raise NotPortable(f"{where} is of type {type(value).__name__}")


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**64
