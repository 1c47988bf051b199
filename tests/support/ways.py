"""The ways by which a client reaches a node: by its own port, handed over by a balancer, or through its tunnel."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cluster import handoff
from node import Server
from tests.support.balancer import balancer
from tests.support.handing import hands_over
from tests.support.nodes import node_here

WAYS = ("direct", "handoff", "tunnel")


@asynccontextmanager
async def served(way: str, sio: Server, **nodes: Any) -> AsyncIterator[str]:
    """Run `sio` as a node in this event loop, and a balancer before it unless `way` is direct; gives the URL."""
    # Short, because a unix socket's path may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="way-") as name:
        directory = Path(name)
        async with node_here(sio, run_dir=directory, **nodes) as url:
            if way == "direct":
                yield url
                return
            async with balancer(sio.node.port) as before:
                if way == "handoff":
                    hands_over(before, handoff.socket_path(directory, sio.node.name))
                yield before.url
