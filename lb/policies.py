"""How a node is chosen for a client that belongs nowhere yet.  Pure: chance is an argument."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.config import Balance
from lb.pool import Node


class Policy(Protocol):
    """Chooses one of `ready`, which is never empty; `address` is the client's masked one."""

    def __call__(self, ready: Sequence[Node], address: str) -> Node: ...


def _load(node: Node) -> tuple[int, int]:
    return node.connections, node.exchanges


def least_connections(rng: Callable[[], float] = random.random) -> Policy:
    """The node with the fewest clients; among equals by chance, so that balancers do not all pick the same one."""

    def choose(ready: Sequence[Node], address: str) -> Node:
        least = min(_load(node) for node in ready)
        return _any([node for node in ready if _load(node) == least], rng)

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
    """One after the other by name; a node that comes or goes does not upset the turn of the others."""
    last = ""

    def choose(ready: Sequence[Node], address: str) -> Node:
        nonlocal last
        in_order = sorted(ready, key=lambda node: node.name)
        chosen = next((node for node in in_order if node.name > last), in_order[0])
        last = chosen.name
        return chosen

    return choose


def ip_hash(ready: Sequence[Node], address: str) -> Node:
    """Rendezvous hashing over the address: a node that goes moves only its own clients, and gets them back.

    Every balancer agrees without talking.  (Thaler and Ravishankar, "Using name-based mappings to increase hit
    rates", 1998.)
    """
    return max(ready, key=lambda node: (_weight(node.name, address), node.name))


def _weight(name: str, address: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{address}".encode(), digest_size=8).digest()


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
