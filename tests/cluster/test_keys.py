"""cluster/keys.py: what a cluster keeps in Redis has its name on it."""

from __future__ import annotations

import inspect

from cluster.keys import Keys


def every_name(cluster: str) -> list[str]:
    keys = Keys(cluster)
    properties = [name for name, kind in inspect.getmembers(Keys) if isinstance(kind, property)]
    return [keys.node("n3000"), keys.node("nodes"), *(getattr(keys, name) for name in properties)]


def test_all_of_a_cluster_lies_in_one_slot_of_a_redis_cluster() -> None:
    """The name is the hash tag: what stands between the first braces."""
    assert all(name.startswith("{flotilla}:") for name in every_name("flotilla"))


def test_no_two_things_share_a_name() -> None:
    """A node may be called `nodes`, too."""
    assert len(set(every_name("a"))) == len(every_name("a"))


def test_two_clusters_share_nothing() -> None:
    """They may use one Redis."""
    assert not set(every_name("a")) & set(every_name("b"))


def test_names_are_the_same_in_every_release() -> None:
    """Nodes and balancers of two releases meet in one Redis while one is rolled out."""
    keys = Keys("flotilla")
    assert (keys.node("n1"), keys.nodes, keys.nodes_changed, keys.secret) == (
        "{flotilla}:node:n1",
        "{flotilla}:nodes",
        "{flotilla}:nodes:changed",
        "{flotilla}:secret",
    )
    assert (keys.metrics, keys.bus, keys.users_online) == (
        "{flotilla}:metrics",
        "{flotilla}:socketio",
        "{flotilla}:users:online",
    )
    assert (keys.users_part("n1", "i1", 7), keys.state("score"), keys.state_changed("score")) == (
        "{flotilla}:users:online:n1:i1:7",
        "{flotilla}:state:score",
        "{flotilla}:state-changed:score",
    )
