"""The node's side of a handoff: what it takes, what it refuses, and how it says that a connection has ended."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

import node.adoption
from cluster import handoff
from cluster.ends import End
from cluster.handoff import Closed, Handoff, Message, Refused, Taken, message_in
from node.adoption import Adoption
from tests.lb.conftest import Run
from tests.support.balancer import Caller, upgrade_request
from tests.support.handing import (
    AdoptingNode,
    adopting_node,
    application,
    closed,
    echoes,
    frame,
    open_descriptors,
    payload_from,
)
from tests.support.nodes import running_node
from tests.support.waiting import eventually, lastingly

SECOND_NS = 10**9


@dataclass
class Worker:
    """A worker's end of a link, played by the test; `heard` is what the node has said."""

    sock: socket.socket
    heard: list[Message] = field(default_factory=list)

    def give(self, number: int, received: bytes, *descriptors: int, valid_s: float = 10, cookie: str = "") -> None:
        given = Handoff(number, time.monotonic_ns() + int(valid_s * SECOND_NS), cookie, received)
        socket.send_fds(self.sock, [given.to_bytes()], list(descriptors))

    def listen(self) -> list[Message]:
        """Read what there is to read."""
        while True:
            try:
                packet, _ = handoff.receive(self.sock)
            except BlockingIOError:
                return self.heard
            if not packet:
                raise EOFError
            self.heard.append(message_in(packet))

    async def hears(self, message: Message) -> None:
        await eventually(lambda: message in self.listen(), what=f"{message} is said")

    @property
    def ends(self) -> list[End]:
        """The ends that were reported so far."""
        return [end for said in self.listen() if isinstance(said, Closed) for end in said.ends]

    async def hears_the_end(self, number: int) -> End:
        """Wait for the end of one connection, and return what was said of it."""
        await eventually(lambda: number in {end.id for end in self.ends}, what=f"the end of {number} is reported")
        [end] = [end for end in self.ends if end.id == number]
        return end

    def is_cut_off(self) -> bool:
        try:
            self.listen()
        except (EOFError, ConnectionError):
            return True
        return False


def worker_of(path: str) -> Worker:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    sock.connect(path)
    return Worker(sock)


@asynccontextmanager
async def linked(directory: Path) -> AsyncIterator[tuple[AdoptingNode, Worker]]:
    """Run a node, and give it a worker."""
    async with adopting_node(directory) as adopting:
        worker = worker_of(adopting.path)
        with worker.sock:
            yield adopting, worker


@contextmanager
def accepted() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection, the client's first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


async def caller_of(client: socket.socket) -> Caller:
    return Caller(*await asyncio.open_connection(sock=client))


def test_a_connection_is_served_from_what_was_read_on(run: Run, tmp_path: Path) -> None:
    """First the answer to the worker, then the node's to the client, with the cookie; its end is reported."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                client.sendall(frame(b"second"))
                worker.give(7, upgrade_request("/echo") + frame(b"first"), server.fileno(), cookie="a=b; HttpOnly")
                await worker.hears(Taken(7))
                caller = await caller_of(client)
                assert b"Set-Cookie: a=b; HttpOnly\r\n" in await caller.head()
                assert await payload_from(caller.reader) == b"first"
                assert await payload_from(caller.reader) == b"second"
                assert adopting.adoption.count == 1
                caller.close()
                await worker.hears_the_end(7)
                assert adopting.adoption.count == 0

    run(main)


@pytest.mark.parametrize("size", [0, 60_000, 70_000, 90_000])
def test_early_data_of_any_size_is_read_in_order(run: Run, tmp_path: Path, size: int) -> None:
    """Also what exceeds aiohttp's read buffer while the transport is not reading yet."""

    async def main() -> None:
        payload, rest = os.urandom(size), os.urandom(300_000)
        data = frame(payload) + frame(rest)
        async with linked(tmp_path) as (_, worker):
            with accepted() as (client, server):
                early, later = data[:size], data[size:]
                worker.give(1, upgrade_request("/echo") + early, server.fileno())
                caller = await caller_of(client)
                caller.send(later)
                await caller.head()
                assert await payload_from(caller.reader) == payload
                assert await payload_from(caller.reader) == rest
                caller.close()

    run(main)


def test_what_comes_too_late_is_refused_and_the_client_hears_nothing(run: Run, tmp_path: Path) -> None:
    """The worker has long made another choice."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                client.setblocking(False)
                worker.give(1, upgrade_request("/echo"), server.fileno(), valid_s=-0.001)
                await worker.hears(Refused(1, "read too late"))
                with pytest.raises(BlockingIOError):
                    client.recv(1)
                assert adopting.adoption.count == 0

    run(main)


def test_what_was_answered_too_late_is_let_go(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was stopped between its look at the clock and its answer: nothing is written to the client."""
    send, stopped_s = handoff.send, [0]

    def stopped(sock: socket.socket, message: Message, descriptor: int | None = None) -> None:
        if isinstance(message, Taken):
            stopped_s[0] = 60
        send(sock, message, descriptor)

    clock = SimpleNamespace(monotonic_ns=lambda: time.monotonic_ns() + stopped_s[0] * SECOND_NS)
    monkeypatch.setattr(node.adoption, "time", clock)

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                client.setblocking(False)
                worker.give(1, upgrade_request("/echo"), server.fileno(), valid_s=30)
                monkeypatch.setattr(handoff, "send", stopped)
                await worker.hears_the_end(1)
                with pytest.raises(BlockingIOError):
                    client.recv(1)
                assert adopting.adoption.count == 0

    run(main)


def test_a_leaving_node_refuses_and_keeps_what_it_has(run: Run, tmp_path: Path) -> None:
    """Draining: nobody new."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server), accepted() as (_, another):
                worker.give(1, upgrade_request("/echo"), server.fileno())
                caller = await caller_of(client)
                await caller.head()
                adopting.adoption.leaving = True
                worker.give(2, upgrade_request("/echo"), another.fileno())
                await worker.hears(Refused(2, "leaving"))
                assert await echoes(caller, b"still here")
                caller.close()
                await eventually(lambda: adopting.adoption.count == 0)

    run(main)


def test_what_is_no_single_connection_is_refused_and_closed(run: Run, tmp_path: Path) -> None:
    """No descriptor (the kernel had no room for it here), too many, a pipe, a datagram socket; none leaks."""

    async def main() -> None:
        async with linked(tmp_path) as (_, worker):
            pipe = os.pipe()
            with accepted() as (client, server), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                worker.give(0, b"", server.fileno(), valid_s=-1)
                await worker.hears(Refused(0, "read too late"))
                before = open_descriptors()
                request = upgrade_request("/echo")
                worker.give(1, request)
                worker.give(2, request, server.fileno(), client.fileno())
                worker.give(3, request, *[server.fileno()] * 20)
                worker.give(4, request, pipe[0])
                worker.give(5, request, datagrams.fileno())
                await worker.hears(Refused(5, "not one connection"))
                reasons = [said.reason for said in worker.heard if isinstance(said, Refused)][1:]
                assert reasons == ["out of descriptors (ulimit -n, LimitNOFILE)", *["not one connection"] * 4]
                assert open_descriptors() == before
            for end in pipe:
                os.close(end)

    run(main)


@pytest.mark.parametrize("packet", [b"?", b"H", Taken(1).to_bytes(), closed(1).to_bytes()])
def test_a_worker_that_talks_nonsense_loses_its_link(run: Run, tmp_path: Path, packet: bytes) -> None:
    """Others, and what it handed over before, stay; what came with the packet is closed."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            other = worker_of(adopting.path)
            with other.sock, accepted() as (client, server):
                worker.give(1, upgrade_request("/echo"), server.fileno())
                caller = await caller_of(client)
                await caller.head()
                before = open_descriptors()
                socket.send_fds(worker.sock, [packet], [server.fileno()])
                await eventually(worker.is_cut_off)
                assert open_descriptors() == before - 1
                assert await echoes(caller, b"still here")
                other.give(2, b"")
                await other.hears(Refused(2, "out of descriptors (ulimit -n, LimitNOFILE)"))
                caller.close()
                await eventually(lambda: adopting.adoption.count == 0)

    run(main)


def test_a_worker_that_dies_takes_nothing_along(run: Run, tmp_path: Path) -> None:
    """What it handed over lives; its end is nobody's to hear."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                worker.give(1, upgrade_request("/echo"), server.fileno())
                await worker.hears(Taken(1))
                worker.sock.close()
                caller = await caller_of(client)
                await caller.head()
                await eventually(lambda: not adopting.adoption._links)
                assert await echoes(caller, b"alive")
                caller.close()
                await eventually(lambda: adopting.adoption.count == 0)

    run(main)


def test_a_worker_that_died_before_the_answer_gets_nobody_served_twice(run: Run, tmp_path: Path) -> None:
    """Its packet is still there to be read, but its answer can no longer be given: the node lets go."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                worker.give(1, upgrade_request("/echo"), server.fileno())
                server.close()
                worker.sock.close()
                caller = await caller_of(client)
                assert await caller.rest() == b""
                caller.close()
                assert adopting.adoption.count == 0

    run(main)


def test_a_client_that_was_reset_on_the_way_is_reported_closed(run: Run, tmp_path: Path) -> None:
    """Its address cannot even be asked for any more."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
                worker.give(1, upgrade_request("/who"), server.fileno())
                await worker.hears(Taken(1))
                await worker.hears_the_end(1)
                assert adopting.adoption.count == 0

    run(main)


def test_the_end_of_a_connection_is_its_end_whoever_else_holds_a_copy(run: Run, tmp_path: Path) -> None:
    """A worker that was stopped before it let go, a node that was asked first and hangs: nobody waits for them."""

    async def main() -> None:
        async with linked(tmp_path) as (_, worker):
            with accepted() as (client, server):
                worker.give(1, upgrade_request("/no"), server.fileno())
                caller = await caller_of(client)
                assert (await caller.rest()).endswith(b"not you")
                caller.close()
                assert server.fileno() >= 0

    run(main)


def test_a_worker_that_does_not_read_is_not_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that does not fit is not given, and the connection not taken; ends wait until there is room."""
    ours = handoff.is_ours

    def cramped(sock: socket.socket) -> bool:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return ours(sock)

    monkeypatch.setattr(handoff, "is_ours", cramped)

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            with accepted() as (client, server):
                worker.give(1, upgrade_request("/echo"), server.fileno())
                caller = await caller_of(client)
                await caller.head()
                for number in range(2, 50):
                    worker.give(number, b"", valid_s=-1)
                worker.give(50, upgrade_request("/echo"), server.fileno())
                caller.close()
                await eventually(lambda: adopting.adoption.count == 0)
                assert await _settled(adopting)
                await worker.hears_the_end(1)
                assert Taken(50) not in worker.heard

    async def _settled(adopting: AdoptingNode) -> bool:
        [link] = adopting.adoption._links
        await eventually(lambda: link._waiting, what="the report waits")
        await lastingly(lambda: link._waiting, 0.05)
        return True

    run(main)


def test_thousands_that_end_at_once_are_all_reported(run: Run, tmp_path: Path) -> None:
    """In few packets; more than the socket holds wait for the worker to read."""

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            await eventually(lambda: adopting.adoption._links)
            [link] = adopting.adoption._links
            for number in range(100_000):
                link.ended(End(number))
            await eventually(lambda: link._waiting, what="the socket is full")
            await eventually(lambda: len(worker.ends) == 100_000)
            assert [end.id for end in worker.ends] == list(range(100_000))
            assert len(worker.heard) < 50
            await eventually(lambda: not link._waiting)

    run(main)


def test_a_node_without_room_for_a_link_waits_and_then_accepts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of descriptors: one line in the log for each try, not one for each turn of the event loop."""
    monkeypatch.setattr(node.adoption, "ACCEPT_AGAIN_S", 0.05)

    async def main() -> None:
        async with adopting_node(tmp_path) as adopting:
            worker = worker_of(adopting.path)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (worker.sock.fileno() + 1, hard))
            try:
                await eventually(lambda: len(caplog.records) >= 2)
                assert {record.getMessage() for record in caplog.records} == {"handoff link not accepted"}
                await lastingly(lambda: len(caplog.records) < 20, 0.2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with worker.sock:
                worker.give(1, b"", valid_s=-1)
                await eventually(lambda: worker.listen())

    run(main)


def test_another_users_link_is_closed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could get into our directory must not give us connections."""
    monkeypatch.setattr(handoff, "is_ours", lambda _: False)

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            await eventually(worker.is_cut_off)
            assert not adopting.adoption._links

    run(main)


def test_a_socket_file_left_behind_is_replaced_and_ours_is_removed(run: Run, tmp_path: Path) -> None:
    """Mode 0600; after `close` nothing is there, and calling it twice does no harm."""
    path = handoff.socket_path(tmp_path, "n0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with linked(tmp_path) as (adopting, worker):
            assert os.stat(path).st_mode & 0o777 == 0o600
            await eventually(lambda: adopting.adoption._links)
            adopting.adoption.close()
            assert worker.is_cut_off()
            assert not path.exists()

    run(main)


def test_a_path_that_is_too_long_is_an_os_error_with_words(run: Run, tmp_path: Path) -> None:
    """107 bytes are the most for a unix socket; node/app.py logs it and goes on without."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            before = open_descriptors()
            server = application()._make_handler()
            adoption = Adoption(tmp_path / ("n" * 120), server, tasks)
            with pytest.raises(OSError, match="too long"):
                adoption.open()
            assert open_descriptors() == before
            adoption.close()

    run(main)


def test_a_node_whose_socket_cannot_be_made_serves_without(tmp_path: Path) -> None:
    """Its run directory's path is too long: one warning with the reason, no traceback, and it says of itself so."""

    async def main() -> None:
        directory = tmp_path / ("d" * 100)
        await asyncio.to_thread(directory.mkdir)
        async with running_node(tmp_path, "--redis", "none", "--run-dir", str(directory)) as process:
            assert (await process.healthz())["http"] == 200
            assert "no handoff socket: balancers tunnel" in process.said()
            assert "too long" in process.said()
            assert "Traceback" not in process.said()

    asyncio.run(main())
