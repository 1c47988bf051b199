"""What passes through a worker does not stay in it: memory of a real process, measured at its highest."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

from tests.support.backends import OK, Conversation, backend, tunnel_echo
from tests.support.balancer import Caller, upgrade_request
from tests.support.upstreams import switching_protocols
from tests.support.waiting import eventually
from tests.support.worker import WorkerProcess, doors

MIB = 2**20
PIECE = b"x" * 65_536
MOST_GROWTH = 16 * MIB
"""A few buffers of 64 to 256 KiB for each side, and what the allocator keeps."""


def peak_bytes(worker: WorkerProcess) -> int:
    """Return the most memory that the process ever had resident (VmHWM, proc(5))."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def pour(caller: Caller | Conversation, size: int) -> None:
    for _ in range(size // len(PIECE)):
        caller.writer.write(PIECE)
        await caller.writer.drain()


async def swallow(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        data = await reader.read(min(size, MIB))
        assert data, f"{size} bytes are missing"
        size -= len(data)


def test_an_upload_of_200_mib_takes_no_memory() -> None:
    """With a length and in chunks, to a node that takes its time to begin."""
    size = 200 * MIB

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"healthz" in head:
            await conversation.send(OK)
            return
        await eventually(lambda: go.is_set())
        if b"chunked" in head:
            while length := int(await conversation.reader.readline(), 16):
                await conversation.reader.readexactly(length + 2)
            await conversation.reader.readexactly(2)
        else:
            await swallow(conversation.reader, size)
        await conversation.send(OK)

    go = asyncio.Event()

    async def main() -> None:
        async with backend(talk) as node, doors() as door, door.worker(node.port) as worker:
            before = worker.rss_bytes
            caller = await worker.connect()
            caller.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pour(caller, size))
                await eventually(lambda: len(node.targets) > 1)
                go.set()
            assert (await caller.answer())[1] == b"ok"
            caller.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(50 * MIB // len(PIECE)):
                caller.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                await caller.writer.drain()
            caller.send(b"0\r\n\r\n")
            assert (await caller.answer())[1] == b"ok"
            assert peak_bytes(worker) - before < MOST_GROWTH
            caller.close()

    asyncio.run(main())


def test_a_download_of_200_mib_takes_no_memory() -> None:
    """Also for a client that takes its time to begin."""
    size = 200 * MIB

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"healthz" in head:
            await conversation.send(OK)
        elif b"chunked" in head:
            await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(size // len(PIECE)):
                await conversation.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
            await conversation.send(b"0\r\n\r\n")
        else:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            await pour(conversation, size)

    async def main() -> None:
        async with backend(talk) as node, doors() as door, door.worker(node.port) as worker:
            before = worker.rss_bytes
            caller = await worker.connect()
            caller.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await caller.head()
            # The node is stopped when all buffers between us are full.
            sender = node.conversations[-1].writer.transport
            await eventually(lambda: sender.get_write_buffer_size() > 0)
            await swallow(caller.reader, size)
            caller.send(b"GET /chunked HTTP/1.1\r\nHost: h\r\n\r\n")
            await caller.head()
            received = 0
            while length := int(await caller.reader.readline(), 16):
                received += len(await caller.reader.readexactly(length + 2)) - 2
            assert received == size
            assert peak_bytes(worker) - before < MOST_GROWTH
            caller.close()

    asyncio.run(main())


def test_a_websocket_message_of_64_mib_takes_no_memory() -> None:
    """Both ways at once, each side slow to begin; it is one frame, and we do not know."""
    size = 64 * MIB
    frame = struct.pack("!BBQ", 0x82, 127, size)

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"healthz" in head:
            await conversation.send(OK)
            return
        await conversation.send(switching_protocols(head) + frame)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pour(conversation, size))
            await eventually(lambda: conversation.writer.transport.get_write_buffer_size() > 0)
            assert await conversation.reader.readexactly(len(frame)) == frame
            await swallow(conversation.reader, size)

    async def main() -> None:
        async with backend(talk) as node, doors() as door, door.worker(node.port) as worker:
            before = worker.rss_bytes
            caller = await worker.connect()
            caller.send(upgrade_request())
            await caller.head()
            caller.send(frame)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pour(caller, size))
                await eventually(lambda: caller.writer.transport.get_write_buffer_size() > 0)
                assert await caller.reader.readexactly(len(frame)) == frame
                await swallow(caller.reader, size)
            assert peak_bytes(worker) - before < MOST_GROWTH
            caller.close()

    asyncio.run(main())


def test_an_idle_tunnel_takes_less_than_9_kib() -> None:
    """nginx takes about 18; benchmarks/relay.py measures both."""
    count = 400

    async def talk(conversation: Conversation, head: bytes) -> None:
        if b"healthz" in head:
            await conversation.send(OK)
        else:
            await tunnel_echo(conversation, head)

    async def main() -> None:
        async with backend(talk) as node, doors() as door, door.worker(node.port) as worker:

            async def crowd(size: int) -> list[Caller]:
                callers = [await worker.connect() for _ in range(size)]
                for caller in callers:
                    caller.send(upgrade_request())
                    await caller.head()
                    caller.send(b"once")
                    assert await caller.reader.readexactly(4) == b"once"
                return callers

            first = await crowd(50)  # what is allocated once
            before = worker.rss_bytes
            second = await crowd(count)
            assert (worker.rss_bytes - before) / count < 9 * 1024
            for caller in (*first, *second):
                caller.close()

    asyncio.run(main())
