"""The start-up picture: what listens where, which page to open, how to stop it.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import Config, Endpoint

_WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Facts:
    """What the configuration alone does not tell."""

    version: str
    listen: Endpoint
    """Where it really listens: the configured port may be 0."""
    admin: Endpoint
    nodes: Sequence[str]
    redis: str
    redirect: Endpoint | None = None
    adopted: Sequence[str] = ()
    """Nodes that were taken over, with their clients, from a supervisor that died."""
    not_ready: Sequence[str] = ()
    """One line for each child that does not serve (yet), with the reason."""

    def as_fields(self) -> dict[str, object]:
        """Return what the picture says as fields of one log line."""
        return {
            "version": self.version,
            "listen": str(self.listen),
            "admin": str(self.admin),
            **({"redirect": str(self.redirect)} if self.redirect else {}),
            "nodes": list(self.nodes),
            "redis": self.redis,
            "adopted": list(self.adopted),
            "not_ready": list(self.not_ready),
        }


def banner(config: Config, facts: Facts) -> str:
    """Return the picture as lines of text."""
    scheme = "https" if config.lb.tls.is_on else "http"
    rows = [
        ("open", _page(facts.listen, scheme)),
        ("admin", f"{url(facts.admin)}   (python -m lb status)"),
    ]
    if facts.redirect:
        rows.insert(1, ("redirect", f"{url(facts.redirect)}   (plain http, which leads there)"))
    if facts.nodes:
        rows.append(("nodes", f"{' '.join(facts.nodes)}   app {config.nodes.app}"))
    if facts.adopted:
        rows.append(("adopted", f"{' '.join(facts.adopted)}   (from a supervisor that died; their clients stayed)"))
    if config.nodes.static:
        rows.append(("static", " ".join(config.nodes.static)))
    rows += [("redis", facts.redis), ("stop", "Ctrl-C")]
    rows += [("not ready", reason) for reason in facts.not_ready]
    width = max(len(name) for name, _ in rows) + 3
    return "\n".join(
        [f"Flotilla {facts.version}   cluster {config.cluster}", *(f"  {name:{width}}{text}" for name, text in rows)]
    )


def url(endpoint: Endpoint, scheme: str = "http") -> str:
    """Return the URL at which a browser on this host reaches what listens on `endpoint`."""
    host = "localhost" if endpoint.host in _WILDCARDS else endpoint.host
    return f"{scheme}://{Endpoint(host, endpoint.port)}/"


def _page(endpoint: Endpoint, scheme: str) -> str:
    hint = f"   (listens on {endpoint})" if endpoint.host in _WILDCARDS else ""
    return url(endpoint, scheme) + hint
