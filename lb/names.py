"""Which of several certificates has the name that a client asks for (RFC 6066 3).  Pure.

A name is had by the certificate that says it, or by one that says `*` in place of its first label, and of that only
(RFC 9525 6.3).  Common names are not looked at (RFC 9525 2), and nobody can ask for an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_IPV4 = re.compile(r"[0-9.]+")  # of IPv6, `_NAME` has no colon

MOST_SHOWN = 3
"""Names in one remark."""


class Names:
    """Who of several certificates has which name; `certificates` are the names that each of them says."""

    def __init__(self, certificates: Sequence[Iterable[str]]) -> None:
        self._owners: dict[str, int] = {}
        """Which of those that have a name gets those who ask for it: the first."""
        self._askable = [list(dict.fromkeys(filter(_can_be_asked_for, map(str.lower, each)))) for each in certificates]
        for number, names in enumerate(self._askable):
            for name in names:
                self._owners.setdefault(name, number)

    def owner(self, name: str) -> int | None:
        """Return the number of the certificate for `name`, as it was asked for, or None if there is none."""
        name = name.lower().removesuffix(".")
        if (owner := self._owners.get(name)) is not None:
            return owner
        label, _, parent = name.partition(".")
        return self._owners.get(f"*.{parent}") if label else None

    def remarks(self, titles: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield for each certificate what an operator may have missed of it; `titles` are what they are called."""
        for number, names in enumerate(self._askable):
            if number and not names:
                yield number, f"{titles[number]}: has no name that a client could ask for; nobody gets it"
            taken: dict[int, list[str]] = {}
            for name in names:
                if (owner := self._owners[name]) != number:
                    taken.setdefault(owner, []).append(name)
            for owner, lost in taken.items():
                yield number, f"{titles[number]}: who asks for {_listed(lost)} gets {titles[owner]}, which comes first"


def _can_be_asked_for(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _IPV4.fullmatch(name) is None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
