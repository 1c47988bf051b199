"""SIGHUP: good and bad configurations, applied to whole stacks of real processes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

from tests.support.children import is_gone
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.support.watched import refuses, stack, status_of


def test_a_bad_reload_changes_nothing_and_says_why(tmp_path: Path) -> None:
    """Every mistake on its line; a port in use, an unimportable app and a key that is fixed are told as readably."""

    async def main() -> None:
        async with stack(tmp_path) as watched:
            before, good = watched.pids, json.loads(json.dumps(watched.config))
            watched.reload(lb={"workers": 0, "drain": 1})
            await watched.until_said("not applied", times=2)
            assert watched.lines("lb.workers: 0 is too small")
            assert watched.lines("lb.drain: unknown key")

            with socket.create_server(("127.0.0.1", 0)) as taken:
                address = f"127.0.0.1:{taken.getsockname()[1]}"
                watched.config = json.loads(json.dumps(good))
                watched.reload(lb={"listen": address})
                await watched.until_said(f"lb.listen: {address} is in use by another process")

            watched.config = json.loads(json.dumps(good))
            watched.reload(nodes={"app": "shop:sio"})
            await watched.until_said("app shop:sio: no module shop")

            watched.config = json.loads(json.dumps(good))
            watched.reload(cluster="other")
            await watched.until_said("cluster: cannot be changed while the stack runs; restart needed")
            assert watched.pids == before
            assert len(list(watched.run_dir.glob("config.resolved*"))) == 1
            assert await status_of(watched.url) == 200

    asyncio.run(main())


def test_a_reload_of_the_balancer_replaces_its_workers_and_refuses_nobody(tmp_path: Path) -> None:
    """New workers take over on the same sockets; nodes are not touched."""

    async def main() -> None:
        async with stack(tmp_path) as watched:
            before = watched.pids
            watched.reload(lb={"workers": 2, "balance": "round_robin"})
            statuses = []
            while not watched.lines("reload: done"):
                statuses.append(await status_of(watched.url))
            await eventually(lambda: is_gone(before["worker-0"]), what="the old worker has drained")
            statuses += [await status_of(watched.url) for _ in range(5)]
            assert set(statuses) == {200}
            after = watched.pids
            assert set(after) == {*before, "worker-1"}
            assert after["worker-0"] != before["worker-0"]
            assert {name for name in before if after[name] == before[name]} == {*before} - {"worker-0"}

    asyncio.run(main())


def test_a_reload_moves_the_public_address(tmp_path: Path) -> None:
    """The new socket is opened first, the old one closes with the workers that had it."""

    async def main() -> None:
        async with stack(tmp_path) as watched:
            old = watched.url
            watched.reload(lb={"listen": f"127.0.0.1:{free_port()}"})
            await watched.until_said("reload: done")
            assert await status_of(watched.url) == 200
            await eventually(lambda: refuses(old), what="the old address is closed")

    asyncio.run(main())


def test_a_reload_removes_adds_and_rolls_nodes(tmp_path: Path) -> None:
    """One less, one more, then other settings: each node is replaced after the one before serves."""

    async def main() -> None:
        async with stack(tmp_path, count=2) as watched:
            first = watched.config["nodes"]["first_port"]
            before = watched.pids
            watched.reload(nodes={"local": 1})
            await watched.until_said("reload: done")
            assert set(watched.pids) == {"valkey", "worker-0", f"n{first}"}
            assert is_gone(before[f"n{first + 1}"])

            watched.reload(nodes={"local": 2})
            await watched.until_said("reload: done", times=2)
            assert watched.children[f"n{first + 1}"]["state"] == "ready"
            assert watched.pids[f"n{first}"] == before[f"n{first}"]

            before = watched.pids
            watched.reload(nodes={"ping_interval_s": 20.0})
            await watched.until_said("reload: done", times=3)
            after = watched.pids
            assert after["worker-0"] == before["worker-0"]
            assert all(after[f"n{port}"] != before[f"n{port}"] for port in (first, first + 1))
            assert len(list(watched.run_dir.glob("config.resolved*"))) == 1

    asyncio.run(main())


def test_a_roll_ends_at_the_first_node_that_does_not_serve(tmp_path: Path) -> None:
    """It gets its old configuration back, the others keep theirs, and the reason is told."""

    async def main() -> None:
        (tmp_path / "moody.py").write_text(_MOODY.format(str(tmp_path / "broken")), encoding="utf-8")
        restart = {"give_up_after": 1}
        async with stack(tmp_path, count=2, nodes={"app": "moody:sio"}, restart=restart) as watched:
            first = watched.config["nodes"]["first_port"]
            before = watched.pids
            (tmp_path / "broken").touch()
            watched.reload(nodes={"ping_interval_s": 20.0})
            await watched.until_said("nodes were rolled only in part")
            assert watched.pids[f"n{first + 1}"] == before[f"n{first + 1}"]
            (tmp_path / "broken").unlink()
            watched.process.send_signal(signal.SIGHUP)
            await watched.until_said("reload: done")
            assert watched.children[f"n{first}"]["state"] == "ready"
            assert watched.pids[f"n{first + 1}"] != before[f"n{first + 1}"]

    asyncio.run(main())


def test_an_only_node_that_does_not_serve_with_new_settings_does_not_end_the_stack(tmp_path: Path) -> None:
    """It gets its old configuration back, although for a moment no node serves at all."""

    async def main() -> None:
        (tmp_path / "moody.py").write_text(_MOODY.format(str(tmp_path / "broken")), encoding="utf-8")
        async with stack(tmp_path, nodes={"app": "moody:sio"}, restart={"give_up_after": 1}) as watched:
            before = watched.pids
            (tmp_path / "broken").touch()
            watched.reload(nodes={"ping_interval_s": 20.0})
            node = next(name for name in before if name.startswith("n"))
            await watched.until_said("child given up")
            (tmp_path / "broken").unlink()
            await watched.until_said("nodes were rolled only in part")
            assert watched.children[node]["state"] == "ready"
            assert watched.pids[node] != before[node]

    asyncio.run(main())


def test_a_reload_changes_the_log_level_without_replacing_anybody(tmp_path: Path) -> None:
    """A live problem is watched at level debug, not restarted away."""

    async def main() -> None:
        async with stack(tmp_path, nodes={"metrics_interval_s": 0.2}) as watched:
            before = watched.pids
            watched.reload(log={"format": "json"})
            await watched.until_said("reload: done")
            node = next(name for name in before if name.startswith("n"))
            await watched.until_said(f'"process":"{node}"')
            assert watched.pids == before
            watched.process.send_signal(signal.SIGHUP)
            await watched.until_said("the configuration is unchanged")
            assert json.loads(watched.lines("the configuration is unchanged")[0])["process"] == "supervisor"

    asyncio.run(main())


_MOODY = """
import os
from node import Server

sio = Server()

async def start(app):
    if os.path.exists({!r}):
        raise RuntimeError("no, thanks")

sio.web.on_startup.append(start)
"""
