"""A client's connection, offered to a node: what can come of it.

Until it is settled the worker keeps its copy of the descriptor and sends the client nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster import handoff
from cluster.handoff import Refused, Taken
from lb.access import Asked, Opened
from lb.errors import BalancerError


class NotTaken(BalancerError):
    """The node has not taken the connection, which is unharmed: choose another node."""


class TooMuchRead(NotTaken):
    """The client has sent so much behind its request that it does not fit in one packet."""


class LinkBroken(NotTaken):
    """There is no talking to the node's handoff socket: its tunnel is left."""


class LinkLost(NotTaken):
    """The link ended before the node had answered, which may be said of an earlier process under its name."""


@dataclass(frozen=True)
class Lost:
    """Instead of an answer: the link has ended.  A node says that it takes a connection, on this very link, before it
    does; so it has not."""

    reason: str


@dataclass(frozen=True)
class Silent:
    """Instead of an answer: none came in time, and one that comes later takes nothing any more."""


Answer = Taken | Refused | Lost | Silent


def check(answer: Answer) -> None:
    """Raise NotTaken unless `answer` says that the node has the connection."""
    match answer:
        case Refused(_, reason):
            raise NotTaken(f"it refused a handoff: {reason}")
        case Lost(reason):
            raise LinkLost(f"its handoff socket is gone: {reason}")
        case Silent():
            raise NotTaken(f"no answer to a handoff within {handoff.VALID_S:g} s")


@dataclass(eq=False, slots=True)
class Arrival:
    """A client that is to be brought to a node."""

    address: str
    at: float
    """When it came, in monotonic seconds."""
    asked: Asked | None
    """What it asked for, if there is an access log."""


@dataclass(eq=False, slots=True)
class Offer:
    """A connection that waits for its node's answer, until `due` in monotonic seconds."""

    offers: dict[int, Offer]
    """All that wait on the same link."""
    number: int
    arrival: Arrival
    opened: Opened | None
    due: float
    on_answer: Callable[[Answer], None]

    def settle(self, answer: Answer) -> None:
        del self.offers[self.number]
        self.on_answer(answer)

    def forget(self) -> None:
        """Let the answer, if one still comes, go unheard."""
        self.offers.pop(self.number, None)
