"""Names of everything that one cluster keeps in Redis.  Pure.

The cluster's name is a hash tag (`{flotilla}:…`), so that on a Redis Cluster the registry's few keys share one slot and
can be changed in one transaction; see the Redis Cluster specification, "Hash tags".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Redis keys and channels of the cluster named `cluster`."""

    cluster: str

    def _named(self, rest: str) -> str:
        return f"{{{self.cluster}}}:{rest}"

    def node(self, name: str) -> str:
        """A string: what the node `name` says of itself, as JSON, under its lease (PX)."""
        return self._named(f"node:{name}")

    @property
    def nodes(self) -> str:
        """A set of node names: where to look.  A name without a `node` key is one whose lease has ended."""
        return self._named("nodes")

    @property
    def nodes_changed(self) -> str:
        """A channel: the name of a node that joined, changed state or left."""
        return self._named("nodes:changed")

    @property
    def drains(self) -> str:
        """A hash: a node's name -> an operator's order to drain, as JSON (cluster/orders.py)."""
        return self._named("drains")

    def canary(self, of: str) -> str:
        """A channel: what one balancer worker says to itself, to see whether it is heard."""
        return self._named(f"canary:{of}")

    @property
    def secret(self) -> str:
        """A string: the cluster's secret, made by whoever comes first, unless the configuration names one."""
        return self._named("secret")

    @property
    def users_online(self) -> str:
        """A hash: `<node> <incarnation>` -> where that node's part of the users is (node/parts.py, Position)."""
        return self._named("users:online")

    def users_part(self, node: str, incarnation: str, base: int) -> str:
        """A hash: sid -> JSON of one device of one user, all of one node; `base` as in `users_online`."""
        return self._named(f"users:online:{node}:{incarnation}:{base}")

    @property
    def users_changed(self) -> str:
        """A channel: what changed in one node's part, as JSON (node/parts.py)."""
        return self._named("users:changed")

    def state(self, key: str) -> str:
        """A string or hash of the application's own (node/state.py)."""
        return self._named(f"state:{key}")

    def state_changed(self, key: str) -> str:
        """A channel: what changed in `state(key)`."""
        return self._named(f"state-changed:{key}")

    @property
    def metrics(self) -> str:
        """A channel: every node's metrics as JSON, each `metrics_interval_s`."""
        return self._named("metrics")

    @property
    def bus(self) -> str:
        """The channel of python-socketio's Redis manager."""
        return self._named("socketio")
