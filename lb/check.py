"""`python -m lb check`: say what would run, or everything that stands against it, and run nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster import descriptors, embedded
from cluster.config import EMBEDDED, Balance, Config, Stickiness
from cluster.config_file import Loaded, load
from cluster.errors import StartError, UsageError
from cluster.redis_link import without_password
from lb import certificates
from lb.preflight import app_problem
from lb.roster import worker_count

NAME_WIDTH = 12
"""Of the first column that is printed."""


def check(file: Path | None) -> int:
    """Print `ok` and what would run, or each problem on a line; return the exit status.  Raises ConfigError."""
    loaded = load(file)
    problems = list(_problems(loaded))
    if problems:
        sys.stderr.write("\n".join(problems) + "\n")
        return UsageError.exit_code
    sys.stdout.write("\n".join(["ok", *summary(loaded)]) + "\n")
    return 0


def summary(loaded: Loaded) -> Iterator[str]:
    """Yield a line for each thing that would run."""
    config = loaded.config
    shown, notes = certificates.summary(config.lb.tls, loaded.base)
    rows = {
        "config": str(loaded.file or "built-in defaults"),
        "listen": str(config.lb.listen),
        "admin": str(config.lb.admin),
        **{section.removeprefix("lb."): text for section, text in shown.items()},
        **({"redirect": str(config.lb.tls.redirect)} if config.lb.tls.redirect else {}),
        "workers": str(worker_count(config.lb)),
        "redis": without_password(config.redis),
        "nodes": _nodes(config),
        "static": " ".join(config.nodes.static) or "none",
    }
    if places_by_address(config) and not config.lb.trusted_proxies:
        notes.append("clients are placed by address: behind a proxy, name it in lb.trusted_proxies, or all seem one")
    for name, text in [*rows.items(), *(("note", note) for note in notes)]:
        yield f"  {name:{NAME_WIDTH}}{text}"


def places_by_address(config: Config) -> bool:
    return config.lb.stickiness is Stickiness.IP_HASH or config.lb.balance is Balance.IP_HASH


def _nodes(config: Config) -> str:
    if not config.nodes.local:
        return "none on this host"
    ports = " ".join(map(str, config.local_ports))
    return f"{config.nodes.local} on {config.nodes.host}, ports {ports}   app {config.nodes.app}"


def _problems(loaded: Loaded) -> Iterator[str]:
    """Yield what the file itself does not tell: limits, packages and the application of this very host."""
    config = loaded.config
    yield from _raised(lambda: descriptors.check_connections(config))
    yield from map(str, certificates.problems(config.lb.tls, loaded.base))
    if config.redis == EMBEDDED:
        yield from _raised(embedded.binary)
    if config.nodes.local and (problem := asyncio.run(app_problem(loaded.file, loaded.base))):
        yield problem


def _raised(question: Callable[[], object]) -> Iterator[str]:
    try:
        question()
    except (StartError, UsageError) as exc:
        yield str(exc)
