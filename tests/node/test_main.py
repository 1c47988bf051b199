"""`python -m node` as a user runs it: what it needs, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis.asyncio as redis

from cluster.config import Config, Endpoint
from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import connection
from cluster.registry import Registry
from node.__main__ import main as run_in_process
from tests.support.nodes import ended, running_node, started
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

APP = """
import asyncio
from node import Server
sio = Server()
@sio.event
async def where(sid):
    return sio.node.name
"""


def fails(tmp_path: Path, *arguments: str, cwd: Path | None = None) -> tuple[int, list[str]]:
    status, said = asyncio.run(ended(*arguments, cwd=cwd or tmp_path, log=tmp_path / "log"))
    assert "Traceback" not in said
    return status, said.splitlines()


def test_alone_in_an_empty_directory_it_just_works(tmp_path: Path) -> None:
    """No configuration, no Redis: the demo, and a line that says so."""

    async def main() -> None:
        async with running_node(tmp_path, cwd=tmp_path) as node:
            assert "redis: embedded belongs to a supervisor; running alone" in node.said()
            health = await node.healthz()
            assert (health["status"], health["redis"], health["name"]) == ("ok", "none", f"n{node.port}")
            assert await node.stop() == 0

    asyncio.run(main())


def test_an_application_beside_the_configuration_is_found(tmp_path: Path) -> None:
    """Whatever directory it is started from; the command line wins over the file."""
    (tmp_path / "mine.py").write_text(APP)
    config = tmp_path / "config.yaml"
    config.write_text("redis: none\nnodes:\n  local: 1\n  app: mine:sio\n  host: 127.0.0.1\n")

    async def main() -> None:
        async with running_node(tmp_path, "--config", str(config), "--name", "here", "--host", "localhost") as node:
            assert (await node.healthz())["name"] == "here"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "must be a port"),
        (["--port", "x"], "must be a port"),
        (["--redis", "http://x"], "--redis http://x: must be embedded, none or a URL"),
        (["--redis", "redis://me:hidden/x@h"], "--redis redis://me:***@h: is no redis URL"),
        (["--name", "Not A Name"], "--name Not A Name: must match"),
        (["--app", "no colon"], "--app no colon: must be module:attribute"),
        (["--app", "nowhere:sio"], "no module nowhere"),
        (["--app", "node.chat:nothing"], "node.chat has no nothing; it has node.chat:sio"),
        (["--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--host", ""], "--host"),
        (["--max-message-bytes", "5"], "--max-message-bytes 5: "),
        (["--max-message-bytes", "many"], "invalid int value"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A supervisor does not start it again for that."""
    status, lines = fails(tmp_path, *arguments)
    assert status == 2
    assert said in lines[-1]


def test_a_bad_configuration_is_refused_line_by_line(tmp_path: Path) -> None:
    """Every mistake with file and line."""
    (tmp_path / "config.yaml").write_text("nodes:\n  locl: 3\nredis: 5\n")
    status, lines = fails(tmp_path)
    assert status == 2
    assert any("config.yaml:2" in line for line in lines)
    assert any("config.yaml:3" in line for line in lines)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_line_and_status_1(tmp_path: Path, host: str) -> None:
    """It may be free later, so a supervisor may try again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, lines = fails(tmp_path, "--redis", "none", "--host", host, "--port", str(port))
    assert status == 1
    assert f"--host, --port: {Endpoint(host, port)} is in use by another process" in lines[-1]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_one_line(tmp_path: Path, host: str) -> None:
    """192.0.2.0/24 is TEST-NET-1 (RFC 5737), .invalid never resolves (RFC 6761)."""
    status, lines = fails(tmp_path, "--redis", "none", "--host", host, "--port", "0")
    assert status == 1
    assert f"--host, --port: {Endpoint(host, 0)}" in lines[-1]


def test_without_a_redis_and_without_a_secret_it_does_not_start(tmp_path: Path) -> None:
    """Its sids would be signed by a secret that nobody else has; the password is not shown."""
    status, lines = fails(tmp_path, "--redis", f"redis://:hidden@127.0.0.1:{free_port()}/0", "--port", "0")
    assert status == 1
    assert "no Redis at redis://" in lines[-1]
    assert "set `secret`" in lines[-1]
    assert "hidden" not in "".join(lines)


def test_with_a_secret_it_serves_before_redis_is_there(tmp_path: Path, valkey: Valkey) -> None:
    """It announces itself as soon as it can."""
    (tmp_path / "config.yaml").write_text("secret: s\nnodes: {heartbeat_s: 0.2, lease_s: 1}\n")

    async def main() -> None:
        valkey.kill()
        async with running_node(tmp_path, "--redis", valkey.url, cwd=tmp_path) as node:
            assert (await node.healthz())["status"] == "degraded"
            valkey.start()
            async with connection(valkey.url) as link:
                [record] = await eventually(Registry(link, Keys("flotilla")).members)
                assert record.port == node.port

                async def is_well() -> bool:
                    return bool((await node.healthz())["status"] == "ok")

                await eventually(is_well)

    asyncio.run(main())


def test_an_application_whose_start_up_fails_is_shown_with_its_own_frames(tmp_path: Path) -> None:
    """Status 1: what it lacks, a database say, may be there later."""
    (tmp_path / "mine.py").write_text(APP + "async def start(app):\n    1 / 0\nsio.web.on_startup.append(start)\n")
    status, said = asyncio.run(
        ended("--app", "mine:sio", "--redis", "none", "--port", "0", cwd=tmp_path, log=tmp_path / "log")
    )
    assert status == 1
    assert said.splitlines()[-1] == "the application's start-up failed: ZeroDivisionError: division by zero"
    assert "mine.py" in said
    assert "node/app.py" not in said


def test_check_says_what_would_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And starts nothing."""
    monkeypatch.chdir(Path(__file__).parent)
    assert run_in_process(["--check", "--port", "3007", "--redis", "redis://:hidden@host/0"]) == 0
    assert capsys.readouterr().out == "ok: node.chat:sio on 127.0.0.1:3007, redis: redis://:***@host/0\n"


def test_it_announces_what_it_is_and_withdraws(tmp_path: Path, valkey: Valkey) -> None:
    """Its record holds load and identity; after SIGTERM it is gone at once."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            registry = Registry(link, Keys("flotilla"))
            arguments = ("--redis", valkey.url, "--advertise", "node.example", "--name", "me")
            async with running_node(tmp_path, *arguments) as node:
                [record] = await registry.members()
                assert (record.name, record.host, record.port) == ("me", "node.example", node.port)
                assert record.pid == node.process.pid
                assert record.memory_bytes > 10 * 2**20
                assert record.host_id
                assert record.version
                later = await eventually(lambda: _beyond(registry, record.uptime_s))
                assert later.incarnation == record.incarnation
                assert await node.stop() == 0
                assert await registry.members() == []

    asyncio.run(main())


async def _beyond(registry: Registry, uptime_s: float) -> NodeRecord:
    [record] = await registry.members()
    assert record.uptime_s > uptime_s
    return record


def test_metrics_are_logged_and_published(tmp_path: Path, valkey: Valkey) -> None:
    """Each metrics_interval_s, as JSON on the cluster's channel."""
    (tmp_path / "config.yaml").write_text("nodes: {metrics_interval_s: 0.3}\n")

    async def main() -> None:
        async with AsyncExitStack() as stack:
            link: redis.Redis = await stack.enter_async_context(connection(valkey.url))
            subscription = await stack.enter_async_context(link.pubsub(ignore_subscribe_messages=True))
            await subscription.subscribe(Keys("flotilla").metrics)
            node = await stack.enter_async_context(running_node(tmp_path, "--redis", valkey.url, cwd=tmp_path))
            message = await eventually(lambda: subscription.get_message(timeout=1))
            assert json.loads(message["data"])["port"] == node.port
            await eventually(lambda: " metrics " in node.said() and "loop_lag_ms=" in node.said())

    asyncio.run(main())


def test_a_supervisors_child_gets_everything_from_what_it_is_given(tmp_path: Path, valkey: Valkey) -> None:
    """The resolved configuration is JSON in a file elsewhere; modules are looked for in --base."""
    base, run_dir = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    run_dir.mkdir(mode=0o700)
    (base / "mine.py").write_text(APP)
    resolved = run_dir / "config.resolved.yaml"
    config = Config.model_validate({"redis": valkey.url, "secret": "s", "nodes": {"app": "mine:sio"}})
    resolved.write_text(json.dumps(config.dumped()))

    async def main() -> None:
        ready, said = os.pipe()
        arguments = ("--config", str(resolved), "--base", str(base), "--run-dir", str(run_dir), "--port", "0")
        process = await started(
            *arguments, "--name", "n3000", "--ready-fd", str(said), log=tmp_path / "log", pass_fds=(said,)
        )
        os.close(said)
        try:
            assert await asyncio.to_thread(os.read, ready, 100) == b"ready\n"
            async with connection(valkey.url) as link:
                [record] = await Registry(link, Keys("flotilla")).members()
                assert record.name == "n3000"
        finally:
            os.close(ready)
            process.terminate()
            assert await process.wait() == 0

    asyncio.run(main())
