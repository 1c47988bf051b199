"""Which node gets this request?  Pure.

The sid always wins, also on a draining node, which serves those that it has.  The cookie wins while its node takes new
sessions.  Else the policy chooses.

A sid whose node is gone goes to any other node all the same: that node answers "unknown sid" (400), which is what a
Socket.IO client needs to hear to begin a new session at once, and the answer brings the cookie of the node that will
have it.  Our own 404 or 502 would mean "try this sid again" to some clients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from cluster.config import Lb, Stickiness
from lb.affinity import Client
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

    def place(self, *, new_connection: bool) -> None:
        """Count the client whom this request brings to the node, unless it belongs to one that is there already."""
        if self.by is By.POLICY or (new_connection and self.by is By.COOKIE):
            self.node.placed += 1


@dataclass(frozen=True)
class Router:
    """Chooses nodes by one policy and one kind of stickiness."""

    policy: Policy
    cookies: bool

    @classmethod
    def of(cls, lb: Lb) -> Router:
        # Stickiness by address is a placement that is always the same: no other policy may place then.
        policy = ip_hash if lb.stickiness is Stickiness.IP_HASH else policy_of(lb.balance)
        return cls(policy=policy, cookies=lb.stickiness is Stickiness.COOKIE)

    def route(self, nodes: Iterable[Node], client: Client, tried: Collection[str] = ()) -> Choice:
        """Return the node for `client`, none of `tried`.  Raises NoNodeAvailable."""
        known = list(nodes)
        node, by = self._choose([node for node in known if node.name not in tried], client, known, tried)
        return Choice(node, by, stick=self.cookies and client.cookie != node.name)

    def _choose(
        self, untried: list[Node], client: Client, known: list[Node], tried: Collection[str]
    ) -> tuple[Node, By]:
        for node in untried:
            if node.name == client.session and node.is_reachable:
                return node, By.SID
        ready = [node for node in untried if node.takes_new]
        if not ready:
            raise NoNodeAvailable(known=len(known), tried=len(tried))
        for node in ready:
            if client.cookie == node.name or client.cookie in node.former_names:
                return node, By.COOKIE
        return self.policy(ready, client.address), By.POLICY
