"""A real worker process: how it starts, serves, stops and dies."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.backends import OK, Conversation, backend, tunnel_echo
from tests.support.balancer import upgrade_request
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.support.worker import ROOT, doors

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def node_like(conversation: Conversation, head: bytes) -> None:
    """Answer every plain request, and tunnel every upgrade."""
    if b"websocket" in head:
        await tunnel_echo(conversation, head)
    else:
        await conversation.send(OK)


def test_a_worker_that_is_told_to_stop_drains_and_ends_with_status_0() -> None:
    """Clients that are still there after `drain_s` are let go."""

    async def main() -> None:
        async with backend(node_like) as node, doors() as door, door.worker(node.port) as worker:
            tunnel, idle = await worker.connect(), await worker.connect()
            tunnel.send(upgrade_request())
            await tunnel.head()
            idle.send(GET)
            await idle.answer()
            worker.terminate()
            assert await idle.rest() == b""
            assert await tunnel.rest() == b""
            assert await asyncio.wait_for(worker.process.wait(), 30) == 0
            assert "Traceback" not in worker.said()
            for each in (tunnel, idle):
                each.close()

    asyncio.run(main())


def test_a_killed_worker_refuses_nobody() -> None:
    """New connections wait in the kernel's backlog for its successor, and its cookie is still good."""

    async def main() -> None:
        async with backend(node_like) as one, backend(node_like) as two, doors() as door:
            async with door.worker(one.port, two.port) as worker:
                caller = await worker.connect()
                caller.send(GET)
                cookie = (await caller.answer())[0].partition(b"Set-Cookie: ")[2].partition(b";")[0]
                worker.kill()
                await worker.process.wait()
                caller.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nCookie: " + cookie + b"\r\n\r\n"))
            async with door.worker(one.port, two.port):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"Set-Cookie" not in head
                writer.close()

    asyncio.run(main())


def test_two_workers_share_a_socket() -> None:
    """`lb.workers: 2`: both serve, and one that is killed takes only its own clients along."""

    async def main() -> None:
        async with (
            backend(node_like) as node,
            doors() as door,
            door.worker(node.port, index=0) as one,
            door.worker(node.port, index=1) as two,
        ):
            callers = [await one.connect() for _ in range(40)]
            for caller in callers:
                caller.send(upgrade_request())
                assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            two.kill()
            await two.process.wait()
            alive = 0
            for caller in callers:
                caller.send(b"x")
                try:
                    alive += await caller.reader.read(1) == b"x"
                except ConnectionError:
                    continue
            assert alive < 40 or one.descriptors < 80
            caller = await one.connect()
            caller.send(GET)
            assert (await caller.answer())[1] == b"ok"
            for each in (*callers, caller):
                each.close()

    asyncio.run(main())


def test_a_worker_without_any_node_serves_503_and_finds_the_node_when_it_comes() -> None:
    """It starts within its two seconds all the same, and says what it knows."""

    async def main() -> None:
        port = free_port()
        async with doors() as door, door.worker(port) as worker:
            assert "serving with what is known" in worker.said()
            caller = await worker.connect()
            caller.send(GET)
            assert (await caller.answer())[0].startswith(b"HTTP/1.1 503 ")
            async with backend(node_like, port) as node:

                async def answers() -> bool:
                    caller.send(GET)
                    return (await caller.answer())[0].startswith(b"HTTP/1.1 200 ")

                await eventually(answers)
                assert node.heads
            caller.close()

    asyncio.run(main())


def test_the_admin_address_is_served_beside_the_public_one() -> None:
    """With what this worker carries."""

    async def main() -> None:
        async with backend(node_like) as node, doors() as door, door.worker(node.port) as worker:
            caller = await worker.connect()
            caller.send(upgrade_request())
            await caller.head()
            admin = f"http://127.0.0.1:{worker.admin_port}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{admin}/healthz") as answer:
                    assert answer.status == 200
                async with session.get(f"{admin}/api/nodes") as answer:
                    (shown,) = (await answer.json())["nodes"]
                    assert (shown["state"], shown["port"], shown["tunnels"]) == ("ready", node.port, 1)
            caller.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("lb", "warned"),
    [
        ({"admin": "0.0.0.0:8081"}, True),
        ({"admin": "0.0.0.0:8081", "admin_token": "correct-horse-battery"}, False),
        ({"admin": "127.0.0.1:8081"}, False),
    ],
)
def test_an_admin_api_that_is_closed_is_said_once(lb: dict[str, Any], warned: bool) -> None:
    """Health and metrics work, so nobody might notice before the dashboard is needed."""

    async def main() -> None:
        async with backend(node_like) as node, doors() as held, held.worker(node.port, **lb) as worker:
            assert worker.said().count("admin API and dashboard are closed") == int(warned)
            async with aiohttp.ClientSession() as session:
                for path, status in (("/healthz", 200), ("/metrics", 200), ("/", 403 if warned else 200)):
                    async with session.get(f"http://127.0.0.1:{worker.admin_port}{path}") as answer:
                        assert answer.status == status

    asyncio.run(main())


def test_a_descriptor_that_is_no_socket_is_one_readable_line(tmp_path: Path) -> None:
    """A mistake in how it is started is not a traceback."""

    async def main() -> tuple[int | None, bytes]:
        config = tmp_path / "c.yaml"
        config.write_text("redis: none\nnodes: {local: 0, static: ['http://127.0.0.1:1']}\n")
        arguments = ["worker", "--config", config, "--base", tmp_path, "--run-dir", tmp_path]
        arguments += ["--index", "0", "--listen-fd", "0", "--admin-fd", "0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lb",
            *map(str, arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        return process.returncode, said

    status, said = asyncio.run(main())
    assert (status, b"Traceback" in said) == (1, False)
    assert b"descriptor 0 is no socket" in said


def test_a_worker_out_of_descriptors_goes_on_when_there_are_some_again() -> None:
    """Overloaded is not broken: those who are there are served, and new ones again as soon as there is room."""

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (140, 140))

    async def main() -> None:
        async with (
            backend(node_like) as node,
            doors() as door,
            door.worker(node.port, preexec=few_descriptors) as worker,
        ):
            tunnel = await worker.connect()
            tunnel.send(upgrade_request())
            await tunnel.head()
            crowd = []
            for _ in range(200):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", door.port))
                crowd.append(sock)
            await eventually(lambda: worker.descriptors > 60)
            tunnel.send(b"x")
            assert await asyncio.wait_for(tunnel.reader.readexactly(1), 30) == b"x"
            for sock in crowd:
                sock.close()

            async def answers() -> bool:
                caller = await worker.connect()
                caller.send(GET)
                try:
                    return (await asyncio.wait_for(caller.answer(), 1))[1] == b"ok"
                except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
                    return False
                finally:
                    caller.close()

            await eventually(answers)
            assert "Traceback" not in worker.said()
            tunnel.close()

    asyncio.run(main())


@pytest.mark.parametrize("count", [300])
def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(count: int) -> None:
    """No descriptor, no count: handshakes that are cut at any moment."""

    async def main() -> None:
        async with backend(node_like) as node, doors() as door, door.worker(node.port) as worker:
            before = worker.descriptors
            request = upgrade_request() + b"early"
            for number in range(count):
                caller = await worker.connect()
                caller.send(request[: 1 + number * 7 % len(request)])
                if number % 3:
                    await asyncio.sleep(0)
                if number % 5 == 0:
                    await caller.writer.drain()
                caller.close()
            await eventually(lambda: worker.descriptors <= before + 1)
            assert "Traceback" not in worker.said()

    asyncio.run(main())
