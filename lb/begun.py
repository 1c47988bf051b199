"""An exchange that began on the short way (lb/trip.py) and turned out not to be plain."""

from __future__ import annotations

from dataclasses import dataclass

from lb.errors import BalancerError
from lb.link import Link
from lb.luggage import Remainder
from lb.route import Choice


@dataclass(frozen=True, slots=True)
class Begun:
    """The request is at its node, but for what remains; the answer comes on `link`, unless there is a `problem`."""

    choice: Choice
    link: Link
    problem: BalancerError | None = None
    remainder: Remainder | None = None
    """Of a body that came behind its head."""

    @property
    def brought(self) -> int:
        """Bytes of that body that the node has got, less those that its parser will find and that are none."""
        return 0 if self.remainder is None else self.remainder.received - self.remainder.stand.invented
