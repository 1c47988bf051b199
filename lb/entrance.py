"""How new clients come in, as a worker reports it: who waits, and whether most of them seem to be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lb.crowd import MOST, Crowd

ONE_FOR_MOST = "most clients seem to come from one address"


class Door(Protocol):
    """The part of lb/front.py that is needed here."""

    @property
    def waiting(self) -> int: ...

    @property
    def crowd(self) -> Crowd: ...


class Entrance:
    """Looks at `door` with each report; `tell` hears once of an address that hides most clients."""

    def __init__(self, door: Door, tell: Callable[[str, str], None]) -> None:
        self._door = door
        self._tell = tell
        self._told = ""

    def look(self) -> dict[str, int | float | str]:
        """Return what the worker's report says of it, see `Worker` in lb/reports.py."""
        address, share = self._door.crowd.largest()
        if share >= MOST and address != self._told:
            self._told = address
            self._tell(ONE_FOR_MOST, f"{reason(address, share)}")
        return {"waiting": self._door.waiting, "hash_key": address, "hash_share": round(share, 3)}


def reason(address: str, share: float) -> str:
    """Say what is wrong and what to do."""
    return (
        f"{share:.0%} of the clients that are placed by address have {address}, so one node gets them all;"
        " if that is a proxy, name it in lb.trusted_proxies"
    )
