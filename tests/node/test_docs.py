"""What docs/your-app.md shows is true."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import socketio

from cluster.keys import Keys
from tests.support.clients import WEBSOCKET, python_crowd
from tests.support.nodes import running_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

GUIDE = (Path(__file__).parents[2] / "docs" / "your-app.md").read_text(encoding="utf-8")
EXAMPLES = {match[1]: match[2] for match in re.finditer(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, re.DOTALL)}


def test_the_first_example_runs_beside_its_configuration(tmp_path: Path) -> None:
    """As the guide says: the module and two lines of configuration."""
    (tmp_path / "echo.py").write_text(EXAMPLES["echo.py"])
    (tmp_path / "config.yaml").write_text(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])

    async def main() -> None:
        async with running_node(tmp_path, cwd=tmp_path) as node, python_crowd() as crowd:
            client = await crowd.connect(node.url, WEBSOCKET)
            assert await client.call("say", "hi") == {"ok": True}
            await eventually(lambda: client.heard.all("said") == [{"text": "hi", "by": f"n{node.port}"}])
            async with aiohttp.ClientSession() as session, session.get(f"{node.url}/hello") as answer:
                assert await answer.text() == "hello"

    asyncio.run(main())


def test_the_example_of_presence_runs(tmp_path: Path) -> None:
    """Log in, see who is there, hear who came and went."""
    (tmp_path / "online.py").write_text(EXAMPLES["online.py"])

    async def main() -> None:
        async with running_node(tmp_path, "--app", "online:sio", cwd=tmp_path) as node, python_crowd() as crowd:
            ann, bob = [await crowd.connect(node.url, WEBSOCKET) for _ in range(2)]
            assert await ann.call("login", "ann") == ["ann"]
            assert await bob.call("login", "bob") == ["ann", "bob"]
            assert await ann.call("where", "bob") == [[f"n{node.port}", {"app": "web"}]]
            await eventually(lambda: ann.heard.all("came") == ["ann", "bob"])
            await bob.close()
            await eventually(lambda: ann.heard.all("went") == ["bob"])

    asyncio.run(main())


def test_an_emitter_outside_is_heard_under_the_documented_channel(tmp_path: Path, valkey: Valkey) -> None:
    """Plain python-socketio, write-only."""
    channel = Keys("flotilla").bus
    assert f'channel="{channel}"' in GUIDE
    assert "`bus: {bridge: python-socketio}`" in GUIDE
    (tmp_path / "config.yaml").write_text("bus: {bridge: python-socketio}")

    async def main() -> None:
        async with running_node(tmp_path, "--redis", valkey.url, cwd=tmp_path) as node, python_crowd() as crowd:
            client = await crowd.connect(node.url, WEBSOCKET)
            outside = socketio.RedisManager(valkey.url, channel=channel, write_only=True)
            outside.emit("said", {"text": "from outside"})
            await eventually(lambda: client.heard.all("said") == [{"text": "from outside"}])
            outside.redis.close()

    asyncio.run(main())
