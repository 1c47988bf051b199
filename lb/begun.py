"""An exchange that began on the short way (lb/trip.py) and turned out not to be plain."""

from __future__ import annotations

from dataclasses import dataclass

from lb.errors import BalancerError
from lb.link import Link
from lb.route import Choice


@dataclass(frozen=True, slots=True)
class Begun:
    """The request is at its node; the answer comes on `link`, unless there is a `problem` already."""

    choice: Choice
    link: Link
    problem: BalancerError | None = None
