"""What a changed configuration means for a running stack.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.config import Config, Nodes

FIXED = ("cluster", "redis", "secret")
"""Keys on which all processes of a cluster must agree at any moment."""

_BALANCING = ("weights", "max_connections", "handshakes_per_s")

_WORKERS_READ = (
    "local",
    "first_port",
    "host",
    "static",
    "discover",
    "lease_s",
    "heartbeat_s",
    "drain_s",
    "close_per_s",
    *_BALANCING,
)
"""Keys of `nodes` that balancer workers read."""

_NODES_IGNORE = ("local", "first_port", "static", "discover", *_BALANCING)
"""Keys of `nodes` that do not concern a node that runs."""


@dataclass(frozen=True)
class Plan:
    """The steps from one configuration to another."""

    refused: tuple[str, ...] = ()
    """Keys that cannot be changed while the stack runs; nothing is applied then."""
    listen: bool = False
    admin: bool = False
    redirect: bool = False
    workers: bool = False
    """New workers take over."""
    add: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()
    roll: tuple[int, ...] = ()
    """Ports whose nodes are replaced one at a time."""
    app: bool = False
    """The application is another one, so look first whether it can be imported."""
    restart: bool = False
    log: bool = False

    @property
    def is_empty(self) -> bool:
        return self == Plan()

    def in_words(self) -> str:
        """Say what it does, in the order in which it is done."""
        steps = {
            "lb.listen moves": self.listen,
            "lb.admin moves": self.admin,
            "lb.tls.redirect moves": self.redirect,
            "workers are replaced": self.workers,
            f"nodes start on {_ports(self.add)}": self.add,
            f"nodes stop on {_ports(self.remove)}": self.remove,
            f"nodes roll on {_ports(self.roll)}": self.roll,
            "restart limits apply": self.restart,
            "log settings apply": self.log,
        }
        return ", ".join(text for text, due in steps.items() if due)


def plan(old: Config, new: Config) -> Plan:
    """Return what leads from `old` to `new`."""
    refused = tuple(key for key in FIXED if getattr(old, key) != getattr(new, key))
    if refused:
        return Plan(refused=refused)
    changed = changed_keys(old.nodes, new.nodes)
    before, after = set(old.local_ports), set(new.local_ports)
    roll = before & after if changed - set(_NODES_IGNORE) else set()
    return Plan(
        listen=old.lb.listen != new.lb.listen,
        admin=old.lb.admin != new.lb.admin,
        redirect=old.lb.tls.redirect != new.lb.tls.redirect,
        workers=old.lb != new.lb or bool(changed & set(_WORKERS_READ)),
        add=tuple(sorted(after - before)),
        remove=tuple(sorted(before - after)),
        roll=tuple(sorted(roll)),
        app=bool(after) and "app" in changed,
        restart=old.restart != new.restart,
        log=old.log != new.log,
    )


def fits(old: Config, new: Config) -> bool:
    """Return whether a node that runs with `old`, resolved, is what `new`, resolved, asks for."""
    same = all(getattr(old, key) == getattr(new, key) for key in FIXED)
    return same and changed_keys(old.nodes, new.nodes) <= set(_NODES_IGNORE)


def changed_keys(old: Nodes, new: Nodes) -> set[str]:
    return {key for key in Nodes.model_fields if getattr(old, key) != getattr(new, key)}


def _ports(ports: tuple[int, ...]) -> str:
    return " ".join(map(str, ports))
