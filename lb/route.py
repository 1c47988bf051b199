"""Which node gets this request?  Pure.

The sid always wins, also on a draining node, which serves those that it has.  A sid of a node of another make names
none, so the cookie stands for it.  Else the cookie wins while its node takes new sessions, and then the policy chooses.
A client that is new goes to a node with room only (`place`), whatever its cookie.

A sid whose node is gone goes to any other node all the same: that node answers "unknown sid" (400), which is what a
Socket.IO client needs to hear to begin a new session at once, and the answer brings the cookie of the node that will
have it.  Our own 404 or 502 would mean "try this sid again" to some clients.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.config import Lb, Stickiness
from lb.affinity import Client
from lb.crowd import Crowd
from lb.errors import NoNodeAvailable
from lb.policies import Policy, ip_hash, policy_of
from lb.pool import Node


class By(StrEnum):
    """What decided."""

    SID = "sid"
    COOKIE = "cookie"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Choice:
    """A node for a request, and whether its client needs a (new) cookie to stick to it."""

    node: Node
    by: By
    stick: bool


@dataclass(frozen=True)
class Router:
    """Chooses nodes by one policy and one kind of stickiness."""

    policy: Policy
    cookies: bool
    crowd: Crowd = field(default_factory=Crowd)
    """Whose addresses were hashed."""
    rng: Callable[[], float] = random.random

    @classmethod
    def of(cls, lb: Lb) -> Router:
        # Stickiness by address is a placement that is always the same: no other policy may place then.
        policy = ip_hash if lb.stickiness is Stickiness.IP_HASH else policy_of(lb.balance)
        return cls(policy=policy, cookies=lb.stickiness is Stickiness.COOKIE)

    def route(self, nodes: Iterable[Node], client: Client, tried: Collection[str] = ()) -> Choice:
        """Return the node for a request of `client`, none of `tried`.  Raises NoNodeAvailable."""
        known = list(nodes)
        by = By.SID if client.session is not None else By.COOKIE
        home = client.session or (client.cookie if client.sid else None)
        if home is not None:
            for node in known:
                if _is_called(node, home) and node.is_reachable and node.name not in tried:
                    return self._choice(node, by, client)
        ready = _ready(known, tried)
        return self._placed(ready, client)

    def place(self, nodes: Iterable[Node], client: Client, now: float, tried: Collection[str] = ()) -> Choice | None:
        """Return the node for a `client` that is new, one with room for it at `now`; None: none has room just now.

        Raises NoNodeAvailable.
        """
        known = list(nodes)
        ready = _ready(known, tried)
        free = [node for node in ready if node.has_room(now)]
        if not free:
            return None
        if self.policy is not ip_hash:
            # A node that has just joined takes part in some of the draws only, more of them with each second.
            warm = [node for node in free if (share := node.share(now)) >= 1.0 or self.rng() < share]
            return self._placed(free, client, warm or free)
        return self._placed(free, client)

    def _placed(self, ready: Sequence[Node], client: Client, free: Sequence[Node] = ()) -> Choice:
        if client.cookie is not None:
            for node in ready:
                if _is_called(node, client.cookie):
                    return self._choice(node, By.COOKIE, client)
        if self.policy is ip_hash:
            self.crowd.saw(client.address)
        return self._choice(self.policy(free or ready, client.address), By.POLICY, client)

    def _choice(self, node: Node, by: By, client: Client) -> Choice:
        return Choice(node, by, stick=self.cookies and client.cookie != node.name)


def _is_called(node: Node, name: str) -> bool:
    return name == node.name or name in node.former_names


def _ready(known: Sequence[Node], tried: Collection[str]) -> Sequence[Node]:
    """Return the nodes that take new clients, but for `tried`.  Raises NoNodeAvailable."""
    ready = [node for node in known if node.takes_new and node.name not in tried]
    if not ready:
        raise NoNodeAvailable(known=len(known), tried=len(tried))
    if not tried:
        return ready
    # One failure a client need not notice; to send it from one sick node to the next would make that an error.
    well = [node for node in ready if not node.recruited]
    return [node for node in well if not node.conduct.is_doubtful] or well or ready
