"""Faults of the supervisor and of what it runs, in whole stacks of real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.keys import Keys
from cluster.redis_link import connection
from tests.support.children import is_gone, is_over
from tests.support.commands import runtime_directory
from tests.support.stack import stack_config
from tests.support.valkey import Valkey
from tests.support.waiting import eventually
from tests.support.watched import UP, stack, starting, status_of


def test_sigterm_ends_everything_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    """No process, no socket, no file; status 0; Redis goes last, so that nodes can sign off."""

    async def main() -> None:
        async with stack(tmp_path, count=2) as watched:
            pids = watched.pids
            assert set(pids) == {"valkey", "worker-0", *(name for name in pids if name.startswith("n"))}
            assert len(pids) == 4
            watched.process.terminate()
            assert await watched.ended() == 0
            assert [name for name, pid in pids.items() if not is_gone(pid)] == []
            assert watched.left() == []
            assert watched.lines("killed") == []
            for port in (watched.config["nodes"]["first_port"], int(watched.url.rpartition(":")[2])):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port))

    asyncio.run(main())


def test_sigterm_during_start_up_ends_it_too(tmp_path: Path) -> None:
    """As soon as the first child is there; nothing is left."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with starting(tmp_path, runtime, stack_config(2)) as watched:
                await eventually(lambda: list((runtime / "flotilla").glob("*/supervisor.json")), what="a first child")
                watched.process.terminate()
                assert await watched.ended() == 0
                assert watched.left() == []
                assert "Traceback" not in watched.said()

    asyncio.run(main())


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A node that would drain for a minute is killed; still nothing is left.  Status 130, as after Ctrl-C."""

    async def main() -> None:
        (tmp_path / "stubborn.py").write_text(_STUBBORN, encoding="utf-8")
        async with stack(tmp_path, nodes={"app": "stubborn:sio", "drain_s": 60.0}) as watched:
            pids = watched.pids
            watched.process.send_signal(signal.SIGINT)
            await watched.until_said("stubborn indeed")
            watched.process.send_signal(signal.SIGINT)
            assert await watched.ended(within_s=10) == 130
            assert [name for name, pid in pids.items() if not is_gone(pid)] == []
            assert watched.left() == []

    asyncio.run(main())


_STUBBORN = """
import asyncio, signal
from node import Server

sio = Server()

async def refuse(app):
    loop = asyncio.get_running_loop()
    say = lambda: print("stubborn indeed", flush=True)
    # The node sets its handlers before, and ours shall stay.
    loop.add_signal_handler(signal.SIGTERM, say)

sio.web.on_startup.append(refuse)
"""


def test_a_killed_supervisor_takes_its_children_along_and_the_next_start_sweeps(tmp_path: Path) -> None:
    """kill -9 where nodes shall not outlive it: all end within seconds; the run directory goes with the next start."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with stack(tmp_path, count=2, runtime=runtime, nodes={"outlive_supervisor_s": 0.0}) as watched:
                pids, directory = watched.pids, watched.run_dir
                watched.process.kill()
                await watched.ended()
                await eventually(lambda: all(map(is_over, pids.values())), what="all children are gone")
                assert directory.exists()
            async with starting(tmp_path, runtime, watched.config) as again:
                await again.until_said("run directory of a dead supervisor removed")
                assert not directory.exists()
                await again.until_said(UP, times=2)
            assert again.left() == []

    asyncio.run(main())


def test_nodes_that_nobody_takes_over_end_when_their_time_is_over(tmp_path: Path) -> None:
    """In order, as on SIGTERM, with Redis last: nothing lives for ever by accident."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with stack(tmp_path, count=2, runtime=runtime, nodes={"outlive_supervisor_s": 3.0}) as watched:
                pids, port = watched.pids, watched.config["nodes"]["first_port"]
                watched.process.kill()
                await watched.ended()
                await eventually(lambda: is_over(pids["worker-0"]))
                assert await status_of(f"http://127.0.0.1:{port}/") == 200
                await eventually(lambda: is_over(pids[f"n{port}"]), what="the node is gone")
                await eventually(lambda: all(map(is_over, pids.values())), what="all are gone")

    asyncio.run(main())


def test_a_supervisor_that_is_started_at_once_again_ends_a_worker_that_hangs(tmp_path: Path) -> None:
    """As systemd does after a kill -9: a stopped worker does not notice, and holds the public socket."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with stack(tmp_path, count=2, runtime=runtime) as watched:
                pids = watched.pids
                os.kill(pids["worker-0"], signal.SIGSTOP)
                watched.process.kill()
                await watched.ended()
            async with starting(tmp_path, runtime, watched.config) as again:
                await again.until_said("process of a dead supervisor killed")
                await again.until_said(UP, times=2)
                assert is_over(pids["worker-0"])
                assert await status_of(again.url) == 200

    asyncio.run(main())


def test_another_stack_leaves_outliving_nodes_alone(tmp_path: Path) -> None:
    """The same user may run several stacks: what holds none of our ports is none of our business."""

    async def main() -> None:
        other = tmp_path / "other"
        other.mkdir()
        with runtime_directory() as runtime:
            async with stack(tmp_path, runtime=runtime, nodes={"outlive_supervisor_s": 60.0}) as watched:
                node = watched.pids[f"n{watched.config['nodes']['first_port']}"]
                watched.process.kill()
                await watched.ended()
            try:
                async with stack(other, runtime=runtime):
                    assert not is_gone(node)
            finally:
                os.kill(node, signal.SIGKILL)
            await eventually(lambda: is_over(node))
            # The next start of the first stack finds nobody, and sweeps.
            async with starting(tmp_path, runtime, watched.config) as again:
                await again.until_said(UP, times=2)
            assert again.left() == []

    asyncio.run(main())


def test_a_dead_node_is_signed_off_before_its_lease_ends(tmp_path: Path, valkey: Valkey) -> None:
    """Balancers and presence need not wait for the lease, which is an hour here."""

    async def main() -> None:
        nodes = {"lease_s": 3600.0}
        async with stack(
            tmp_path, redis=valkey.url, nodes=nodes, restart={"first_delay_s": 60.0, "most_delay_s": 60.0}
        ) as watched:
            name = next(name for name in watched.pids if name.startswith("n"))
            async with connection(valkey.url) as link:
                key = Keys("flotilla").node(name)
                assert await link.exists(key)
                os.kill(watched.pids[name], signal.SIGKILL)
                await eventually(lambda: _is_absent(link, key), what="its record is gone")
            await eventually(lambda: watched.children[name]["state"] == "waiting")

    asyncio.run(main())


async def _is_absent(link: Any, key: str) -> bool:
    return not await link.exists(key)


def test_a_connection_made_while_there_is_no_worker_is_delayed_not_refused(tmp_path: Path) -> None:
    """The supervisor holds the listening socket, so the kernel keeps whoever comes for the next worker."""

    async def main() -> None:
        async with stack(tmp_path, restart={"first_delay_s": 1.0}) as watched:
            os.kill(watched.pids["worker-0"], signal.SIGKILL)
            await eventually(lambda: watched.children["worker-0"]["state"] == "waiting")
            assert await status_of(watched.url) == 200
            assert watched.children["worker-0"]["restarts"] == 1

    asyncio.run(main())
