"""Nothing in a node or a worker stops it for tens of milliseconds when many clients come."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import aiohttp
import pytest

from cluster.descriptors import MOST_RESERVED
from tests.support.stack import running_stack


def _room_for_descriptors(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (size,) = [line.split()[1] for line in status.splitlines() if line.startswith("FDSize:")]
    return int(size)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_node_and_a_worker_are_set_up_for_many_clients(tmp_path: Path) -> None:
    """Python makes no full collection by itself, and the kernel has room for their descriptors from the start."""

    async def main() -> None:
        async with running_stack(tmp_path, nodes=1, node_options={"app": "tests.support.vitals_app:sio"}) as stack:
            async with aiohttp.ClientSession() as session, session.get(f"{stack.url}/vitals") as answer:
                said = await answer.json()
            assert said["full_collection_after"] > 10**9
            assert said["put_away"] > 10_000
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            expected = MOST_RESERVED if hard == resource.RLIM_INFINITY else min(hard, MOST_RESERVED)
            children = await stack.children()
            sizes = {name: _room_for_descriptors(child["pid"]) for name, child in children.items() if name != "valkey"}
            assert len(sizes) == 2
            assert all(size >= expected for size in sizes.values()), sizes

    asyncio.run(main())
