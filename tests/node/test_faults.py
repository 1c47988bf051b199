"""Faults that look like nothing: a Redis that hangs, a node that is paused."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.node.test_chat import joined, running_nodes, said
from tests.support.clients import python_crowd
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


def test_a_redis_that_hangs_holds_up_one_message_and_no_more(tmp_path: Path, valkey: Valkey) -> None:
    """It never answers: one time-out finds out, then clients are served without one, and a node stops in time."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            ann = await joined(crowd, one, "ann")
            bob = await joined(crowd, two, "bob")
            assert (await ann.call("online_users"))["count"] == 2
            assert valkey.process is not None
            valkey.process.send_signal(signal.SIGSTOP)
            try:
                await ann.call("message", "first")
                # A time-out each would take minutes.
                async with asyncio.timeout(30):
                    for _ in range(50):
                        await ann.call("message", "next")
                await eventually(lambda: "users elsewhere are as last seen" in one.said())
                async with asyncio.timeout(30):
                    for _ in range(50):
                        await ann.call("online_users")
                assert (await ann.call("online_users"))["count"] == 2
                assert await two.stop() == 0
                assert bob.heard.disconnects
            finally:
                valkey.process.send_signal(signal.SIGCONT)
            await eventually(lambda: "bus is back" in one.said())

    asyncio.run(main())


def test_users_of_a_paused_node_leave_with_its_lease_and_return_with_it(tmp_path: Path, valkey: Valkey) -> None:
    """Swapping, a suspended machine: its entries were swept meanwhile, and it writes them again by itself."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            ann = await joined(crowd, one, "ann")
            bob = await joined(crowd, two, "bob")
            await eventually(lambda: "bob" in said(ann, "user_joined", "username"))
            two.process.send_signal(signal.SIGSTOP)
            try:
                await eventually(lambda: said(ann, "user_left", "username") == ["bob"])
                await eventually(lambda: "users of a lost node removed" in one.said())
            finally:
                two.process.send_signal(signal.SIGCONT)
            await eventually(lambda: said(ann, "user_joined", "username").count("bob") == 2)
            assert (await ann.call("online_users"))["count"] == 2
            assert bob.heard.disconnects == []

    asyncio.run(main())
