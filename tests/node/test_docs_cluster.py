"""What docs/cluster.md shows is true."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from node import Emitter
from tests.support.clients import WEBSOCKET, Client, js_crowd
from tests.support.nodes import ROOT, running_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
EXAMPLES = {match[1]: match[2] for match in re.finditer(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)}


async def _knows_both(client: Client) -> Any:
    return (await client.call("busiest"))["nodes"] == 2


def test_the_examples_run(tmp_path: Path, valkey: Valkey) -> None:
    """A lobby on two nodes, a job and a view outside."""
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            options = ("--app", "lobby:sio", "--redis", valkey.url)
            nodes = [await stack.enter_async_context(running_node(tmp_path, *options, cwd=tmp_path)) for _ in range(2)]
            crowd = await stack.enter_async_context(js_crowd())
            ann, bob = [await crowd.connect(node.url, WEBSOCKET) for node in nodes]
            await eventually(partial(_knows_both, ann))
            assert await ann.call("busiest") == {"nodes": 2, "loads": [1, 1]}
            status, said = await _run(tmp_path, "job.py", valkey.url)
            assert (status, said.strip()) == (0, "2")
            await eventually(lambda: bob.heard.all("news") == [{"text": "from outside"}])
            assert (await _run(tmp_path, "view.py", valkey.url))[0] == 0
            await eventually(lambda: ann.heard.all("news")[1:] == [{"text": "from a view"}])
            async with Emitter(valkey.url) as emitter:
                [bobs] = [
                    each.sid for each in await emitter.fetch_sockets() if each.node.startswith(f"n{nodes[1].port}-")
                ]
            assert len(set(await ann.call("invite", bobs))) == 2
            assert await ann.call("vote", "blue?") == {"votes": ["blue?", "blue?"], "silent": 0}
            assert await ann.call("close_table") == 1
            await eventually(lambda: bob.heard.disconnects)

    asyncio.run(main())


async def _run(directory: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=directory, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
