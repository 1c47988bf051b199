"""Faults that look like nothing: a Redis that hangs, a node that is paused."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from tests.node.test_chat import joined, running_nodes, said
from tests.support.clients import Client, python_crowd
from tests.support.valkey import Valkey
from tests.support.waiting import eventually


async def answered_in(client: Client, event: str, *data: object) -> float:
    began = time.monotonic()
    await client.call(event, *data)
    return time.monotonic() - began


def test_a_redis_that_hangs_holds_up_one_message_and_no_more(tmp_path: Path, valkey: Valkey) -> None:
    """It never answers: one time-out finds out, then clients are served at full speed, and a node stops in time."""

    async def main() -> None:
        async with python_crowd() as crowd, running_nodes(tmp_path, valkey) as (one, two):
            ann = await joined(crowd, one, "ann")
            bob = await joined(crowd, two, "bob")
            assert (await ann.call("online_users"))["count"] == 2
            assert valkey.process is not None
            valkey.process.send_signal(signal.SIGSTOP)
            try:
                assert await answered_in(ann, "message", "first") < 5
                for _ in range(20):
                    assert await answered_in(ann, "message", "next") < 0.5
                await eventually(lambda: "users elsewhere are as last seen" in one.said())
                for _ in range(20):
                    assert await answered_in(ann, "online_users") < 0.5
                assert (await ann.call("online_users"))["count"] == 2
                began = time.monotonic()
                assert await two.stop() == 0
                assert time.monotonic() - began < 6
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
                await eventually(lambda: said(ann, "user_left", "username") == ["bob"], within_s=5)
                await eventually(lambda: "users of a lost node removed" in one.said())
            finally:
                two.process.send_signal(signal.SIGCONT)
            await eventually(lambda: said(ann, "user_joined", "username").count("bob") == 2, within_s=5)
            assert (await ann.call("online_users"))["count"] == 2
            assert bob.heard.disconnects == []

    asyncio.run(main())
