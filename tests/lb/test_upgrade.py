"""A WebSocket from its first byte to its node, handed over: however it comes in pieces, and on whatever connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.member import NodeRecord
from cluster.tag import new_sid, tag_of
from lb.exchange import Exchange
from lb.route import Choice
from lb.upgrade import Upgrades
from tests.lb.conftest import Run
from tests.support.balancer import SECRET, Balancer, Caller, balancer, upgrade_request
from tests.support.handing import AdoptingNode, adopting_node, echoes, frame, hands_over, payload_from
from tests.support.waiting import eventually

GET = b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n"


@asynccontextmanager
async def handing(directory: Path) -> AsyncIterator[tuple[Balancer, AdoptingNode]]:
    """Run a balancer that hands over to one node."""
    async with adopting_node(directory) as node, balancer(node.port) as front:
        hands_over(front, node.path)
        yield front, node


async def opened(caller: Caller, early: Sequence[bytes] = ()) -> bytes:
    """Read the 101 and what comes back of `early`, then check that it is an open WebSocket; return the head."""
    head = await caller.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    for payload in early:
        assert await payload_from(caller.reader) == payload
    assert await echoes(caller, b"open")
    return head


def test_an_upgrade_in_one_piece_is_handed_over(run: Run, tmp_path: Path) -> None:
    """The worker has nothing of it afterwards; the node counts it, and reports its end."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            await opened(caller)
            assert (front.front.connections, front.node().handed_over, node.adoption.count) == (0, 1, 1)
            caller.close()
            await eventually(lambda: (front.node().handed_over, node.adoption.count) == (0, 0))

    run(main)


def test_a_head_that_comes_byte_by_byte_is_handed_over(run: Run, tmp_path: Path) -> None:
    """It is read whole first."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            for byte in upgrade_request("/echo"):
                caller.send(bytes([byte]))
                await asyncio.sleep(0)
            await opened(caller)
            assert node.adoption.count == 1

    run(main)


def test_an_upgrade_on_a_reused_connection_is_handed_over(run: Run, tmp_path: Path) -> None:
    """After requests that were answered in full."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            for _ in range(3):
                caller.send(GET)
                _, body = await caller.answer()
                assert body == b"page"
            caller.send(upgrade_request("/echo"))
            await opened(caller)
            assert node.adoption.count == 1

    run(main)


@pytest.mark.parametrize("size", [4, 100_000, 3_000_000])
def test_an_upgrade_pipelined_behind_another_request_waits_for_its_answer(run: Run, tmp_path: Path, size: int) -> None:
    """Whether it is handed over then or tunnelled: the answers' bytes never mix."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            request = f"GET /large?bytes={size} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
            caller.send(request + GET + upgrade_request("/echo") + frame(b"early"))
            _, body = await caller.answer()
            assert body == bytes(size)
            _, body = await caller.answer()
            assert body == b"page"
            await opened(caller, [b"early"])
            assert node.adoption.count + front.node().tunnels == 1

    run(main)


def test_while_an_earlier_answer_is_unsent_the_connection_stays_here(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in this process for a slow reader would come in between the node's bytes: the tunnel keeps order."""
    waiting = b"x" * 16_000_000
    hands_over_if = Upgrades._can_hand_over

    def behind_an_answer(self: Upgrades, exchange: Exchange, choice: Choice) -> bool:
        transport = exchange.request.transport
        assert transport is not None
        transport.write(waiting)
        return hands_over_if(self, exchange, choice)

    monkeypatch.setattr(Upgrades, "_can_hand_over", behind_an_answer)

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller, head = await front.connect(), upgrade_request("/echo")
            caller.send(head[:9])
            await eventually(lambda: front.front.connections == 1)
            caller.send(head[9:])
            assert await caller.reader.readexactly(len(waiting)) == waiting
            await opened(caller)
            assert (front.node().tunnels, node.adoption.count) == (1, 0)

    run(main)


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"Content_Length": "4"}, b"body"), ({"Transfer_Encoding": "chunked"}, b"4\r\nbody\r\n0\r\n\r\n")],
    ids=["sized", "chunked"],
)
def test_an_upgrade_with_a_body_is_not_handed_over(
    run: Run, tmp_path: Path, headers: dict[str, str], body: bytes
) -> None:
    """The balancer has read a part of what belongs to it; the tunnel carries both."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request("/echo", **headers) + body)
            assert (await caller.head()).startswith(b"HTTP/1.1 ")
            assert node.adoption.count == 0

    run(main)


def test_an_upgrade_to_a_choice_of_protocols_is_handed_over_with_what_came_behind_it(run: Run, tmp_path: Path) -> None:
    """`Upgrade: h2c, websocket`: aiohttp would lose what is in one piece with it."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            asked = upgrade_request("/echo").replace(b"Upgrade: websocket", b"Upgrade: other, websocket")
            caller.send(asked + frame(b"early"))
            await opened(caller, [b"early"])
            assert (front.node().tunnels, node.adoption.count) == (0, 1)

    run(main)


def test_the_node_sees_the_client_and_none_of_what_it_pretends(run: Run, tmp_path: Path) -> None:
    """`request.remote` is the client's; X-Forwarded-* are ours, and what the client says of itself is dropped."""

    async def main() -> None:
        async with handing(tmp_path) as (front, _):
            caller = await front.connect()
            caller.send(
                upgrade_request(
                    "/who",
                    X_Forwarded_For="6.6.6.6",
                    X_Forwarded_Proto="https",
                    X_Forwarded_Host="evil",
                    X_Real_IP="6.6.6.6",
                    Forwarded="for=6.6.6.6",
                )
            )
            await caller.head()
            assert json.loads(await payload_from(caller.reader)) == {
                "remote": "127.0.0.1",
                "Host": ["test"],
                "X-Forwarded-For": ["127.0.0.1"],
                "X-Forwarded-Proto": ["http"],
                "X-Forwarded-Host": ["test"],
                "X-Real-IP": [],
                "Forwarded": [],
            }
            caller.send(frame((1000).to_bytes(2, "big"), opcode=8))
            assert await caller.rest() == b"\x88\x02\x03\xe8", "a close frame, and then the end"

    run(main)


def test_the_sticky_cookie_is_on_the_101_and_sticks(run: Run, tmp_path: Path) -> None:
    """Set once: who brings it gets no other, and comes to the same node."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path, "n0") as first,
            adopting_node(tmp_path, "n1") as second,
            balancer(first.port, second.port) as front,
        ):
            hands_over(front, first.path, second.path)
            front.node("n0").handed_over += 10
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            head = await opened(caller)
            [cookie] = re.findall(rb"(?i)set-cookie: ([^;]+);", head)
            assert b"HttpOnly" in head
            front.node("n1").handed_over += 100
            again = await front.connect()
            again.send(upgrade_request("/echo", Cookie=cookie.decode()))
            assert b"set-cookie" not in (await opened(again)).lower()
            assert (first.adoption.count, second.adoption.count) == (0, 2)

    run(main)


@pytest.mark.parametrize(
    ("target", "status", "body"), [("/no", b"403", b"not you"), ("/missing", b"404", b"404: Not Found")]
)
def test_a_refused_upgrade_is_answered_by_the_node_and_ends_the_connection(
    run: Run, tmp_path: Path, target: str, status: bytes, body: bytes
) -> None:
    """The next request may be another node's: one that is pipelined behind is not served here."""

    async def main() -> None:
        async with handing(tmp_path) as (front, node):
            caller = await front.connect()
            caller.send(upgrade_request(target) + GET)
            head, answered = await caller.answer()
            assert head.startswith(b"HTTP/1.1 " + status)
            assert b"Connection: close\r\n" in head
            assert b"set-cookie" in head.lower()
            assert answered == body
            assert await caller.rest() == b""
            await eventually(lambda: (front.node().handed_over, node.adoption.count) == (0, 0))

    run(main)


def test_a_session_is_served_by_its_node_also_when_that_takes_nobody_new(run: Run, tmp_path: Path) -> None:
    """A sid is known there and nowhere else: a leaving node that refuses the handoff has the client in a tunnel."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path, "n0") as leaving,
            adopting_node(tmp_path, "n1") as other,
            balancer(leaving.port, other.port) as front,
        ):
            hands_over(front, leaving.path, other.path)
            leaving.adoption.leaving = True
            for sid, expected in ((new_sid(tag_of("n0", SECRET.encode())), (1, 0)), ("", (1, 1))):
                caller = await front.connect()
                caller.send(upgrade_request(f"/echo?sid={sid}" if sid else "/echo"))
                await opened(caller)
                assert (front.node("n0").tunnels, other.adoption.count) == expected

    run(main)


def test_handoff_never_tunnels(run: Run, tmp_path: Path) -> None:
    """A node without a known socket: that is what `lb.handoff: never` and remote nodes look like here."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port) as front:
            caller = await front.connect()
            caller.send(upgrade_request("/echo"))
            await opened(caller)
            assert (front.node().path, front.node().tunnels, node.adoption.count) == ("tunnel", 1, 0)

    run(main)


PAYLOADS = st.lists(st.binary(max_size=300), max_size=4)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(0, 2), payloads=PAYLOADS, cuts=st.sets(st.integers(1, 1500), max_size=12))
def test_for_any_chunking_the_node_sees_the_same_bytes(
    tmp_path: Path, loop: object, before: int, payloads: list[bytes], cuts: set[int]
) -> None:
    """Requests before it, the head and early frames, cut anywhere: each frame comes back once, in order."""

    async def main() -> None:
        async with handing(tmp_path) as (front, _):
            caller = await front.connect()
            data = GET * before + upgrade_request("/echo") + b"".join(map(frame, payloads))
            edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
            for start, end in itertools.pairwise(edges):
                caller.send(data[start:end])
                for _ in range(3):
                    await asyncio.sleep(0)
            for _ in range(before):
                _, body = await caller.answer()
                assert body == b"page"
            await opened(caller, payloads)
            caller.close()

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(main())


def test_clients_who_come_at_once_are_spread(run: Run, tmp_path: Path) -> None:
    """Each is counted when it is placed, not when its node has answered, let alone reported."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path, "n0") as first,
            adopting_node(tmp_path, "n1") as second,
            balancer(first.port, second.port) as front,
        ):
            front.pool.our_host = "here"
            front.pool.seen(
                [
                    NodeRecord(
                        name=f"n{number}",
                        host="127.0.0.1",
                        port=node.port,
                        incarnation="1",
                        host_id="here",
                        handoff=node.path,
                    )
                    for number, node in enumerate((first, second))
                ]
            )
            callers = [await front.connect() for _ in range(40)]
            for caller in callers:
                caller.send(upgrade_request("/echo"))
            for caller in callers:
                await opened(caller)
            assert (first.adoption.count, second.adoption.count) == (20, 20)

    run(main)
