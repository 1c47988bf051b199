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


def test_what_is_beyond_python_socketio_works(tmp_path: Path) -> None:
    """The example with the new options."""
    (tmp_path / "more.py").write_text(EXAMPLES["more.py"])

    async def main() -> None:
        async with running_node(tmp_path, "--app", "more:sio", cwd=tmp_path) as node, python_crowd() as crowd:
            ann, bob = [await crowd.connect(node.url, WEBSOCKET) for _ in range(2)]
            assert await ann.call("move", 1) is None
            await eventually(lambda: bob.heard.all("moved") == [1])
            assert await ann.call("vote", "tea?", timeout_s=5) == [[None], 0], "bob says nothing, at once"
            assert ann.heard.all("moved") == ann.heard.all("vote") == []

    asyncio.run(main())


def test_a_websocket_of_ones_own_works_as_shown(tmp_path: Path) -> None:
    """A channel."""
    (tmp_path / "shouting.py").write_text(EXAMPLES["shouting.py"])

    async def main() -> None:
        async with (
            running_node(tmp_path, "--app", "shouting:sio", "--redis", "none", cwd=tmp_path) as node,
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{node.url}/shout") as client,
        ):
            await client.send_str("hello")
            assert await client.receive_str() == "HELLO"

    asyncio.run(main())


ENGINE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")


def test_the_page_about_the_engine_names_every_private_name_that_it_touches() -> None:
    """Of aiohttp and python-socketio; and the tests that it says hold them are there."""
    root = Path(__file__).parents[2]
    touched = set()
    for file in sorted((root / "node").glob("*.py")):
        source = file.read_text(encoding="utf-8")
        touched |= set(re.findall(r"\b(?:handler|server|request|response|transport|protocol)\.(_[a-z]\w*)", source))
        touched |= set(re.findall(r"from aiohttp\.(_\w+)", source))
    assert {"_kwargs", "_upgraded", "_message_tail", "_task_handler", "_websocket"} <= touched
    assert [name for name in sorted(touched) if name not in ENGINE] == []
    for path in set(re.findall(r"`(tests/[\w/]+\.py)`", ENGINE)):
        assert (root / path).exists(), path
