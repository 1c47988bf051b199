"""How a node is chosen for a client that belongs nowhere yet.  Pure: chance is an argument."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.config import Balance
from lb.pool import Node


class Policy(Protocol):
    """Chooses one of `ready`, which is never empty; `address` is the client's masked one."""

    def __call__(self, ready: Sequence[Node], address: str) -> Node: ...


def _load(node: Node) -> tuple[float, float]:
    """How loaded a node would be with one client more."""
    return (node.connections + 1) * node.burden, node.exchanges * node.burden


def least_connections(rng: Callable[[], float] = random.random) -> Policy:
    """The node with the fewest clients for its weight and health; among equals by chance, so that balancers do not all
    pick the same one."""

    def choose(ready: Sequence[Node], address: str) -> Node:
        least, best = (math.inf, math.inf), []
        for node in ready:
            load = _load(node)
            if load < least:
                least, best = load, [node]
            elif load == least:
                best.append(node)
        return best[0] if len(best) == 1 else _any(best, rng)

    return choose


def random_two(rng: Callable[[], float] = random.random) -> Policy:
    """The less loaded of two taken by chance: nearly as even as the least of all, and no herd after a stale count."""

    def choose(ready: Sequence[Node], address: str) -> Node:
        first = _any(ready, rng)
        if len(ready) == 1:
            return first
        return min(first, _any([node for node in ready if node is not first], rng), key=_load)

    return choose


def round_robin() -> Policy:
    """One after the other by name; a node that comes or goes does not upset the turn of the others.

    A node of half the weight is passed over every other time.
    """
    last = ""
    credit: dict[str, float] = {}

    def choose(ready: Sequence[Node], address: str) -> Node:
        nonlocal last, credit
        in_order = sorted(ready, key=lambda node: node.name)
        credit = {node.name: credit.get(node.name, 0.0) for node in in_order}
        begin = next((place for place, node in enumerate(in_order) if node.name > last), 0)
        most = max(node.weight for node in in_order)
        while True:  # the heaviest one ends it in its first round
            for node in in_order[begin:] + in_order[:begin]:
                credit[node.name] += node.weight / most
                if credit[node.name] >= 1 - _ROUNDING:
                    credit[node.name] -= 1
                    last = node.name
                    return node

    return choose


_ROUNDING = 1e-9


def ip_hash(ready: Sequence[Node], address: str) -> Node:
    """Rendezvous hashing over the address: a node that goes moves only its own clients, and gets them back.

    Every balancer agrees without talking.  (Thaler and Ravishankar, "Using name-based mappings to increase hit
    rates", 1998; with weights after Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005: a changed
    weight moves only clients to or from that node.)
    """
    return max(ready, key=lambda node: (_score(node, address), node.name))


def _score(node: Node, address: str) -> float:
    drawn = hashlib.blake2b(f"{node.name}\0{address}".encode(), digest_size=8).digest()
    # 53 bits are what a float holds; and the logarithm of 0 or 1 must not be asked for.
    return -node.weight / math.log(((int.from_bytes(drawn) >> 11) + 0.5) / 2**53)


def _any(nodes: Sequence[Node], rng: Callable[[], float]) -> Node:
    return nodes[int(rng() * len(nodes))]


def policy_of(balance: Balance) -> Policy:
    """Return the policy that `lb.balance` names."""
    match balance:
        case Balance.LEAST_CONNECTIONS:
            return least_connections()
        case Balance.ROUND_ROBIN:
            return round_robin()
        case Balance.RANDOM_TWO:
            return random_two()
        case Balance.IP_HASH:
            return ip_hash
