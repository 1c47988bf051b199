"""New clients pass at a pace: over real sockets, whichever way they go on from there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cluster import handoff
from cluster.handoff import Refused
from cluster.member import Signal, State
from cluster.tag import new_sid, tag_of
from lb.arrived import Arrived
from lb.reception import Reception
from lb.turnstile import RETRY_WITHIN_S
from tests.lb.conftest import Run
from tests.support.backends import OK, Conversation, answering, backend, tunnel_echo
from tests.support.balancer import SECRET, Balancer, Caller, balancer, upgrade_request
from tests.support.clock import Clock
from tests.support.handing import BareNode, adopting_node, bare_node, frame, hands_over, payload_from
from tests.support.waiting import eventually, lastingly

POLLING = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no handoff be given up because this machine is slow: that would be another choice, and another turn."""
    monkeypatch.setattr(handoff, "VALID_S", 30.0)


async def arriving(front: Balancer, count: int, request: bytes) -> list[Caller]:
    """Let `count` clients connect and ask at the same time."""
    callers = [await front.connect() for _ in range(count)]
    for caller in callers:
        caller.send(request)
    return callers


async def statuses(callers: list[Caller]) -> Counter[int]:
    async with asyncio.timeout(30):
        return Counter([int((await caller.head()).split()[1]) for caller in callers])


@asynccontextmanager
async def full(tmp_path: Path) -> AsyncIterator[Balancer]:
    """A balancer whose only node has the only client that it takes: who comes now waits, for 15 s."""
    async with (
        adopting_node(tmp_path) as node,
        balancer(node.port, nodes={"max_connections": 1}, handshake_wait_s=15) as front,
    ):
        hands_over(front, node.path)
        await statuses(await arriving(front, 1, upgrade_request("/echo")))
        yield front


def test_who_comes_too_fast_waits_and_gets_in_in_order(run: Run, tmp_path: Path) -> None:
    """12 in one moment at 45 a second: five at once, and one each 1/45 s; nobody is turned away."""

    async def main() -> None:
        clock, pace = Clock(), {"handshakes_per_s": 45.0}
        async with (
            adopting_node(tmp_path) as node,
            balancer(node.port, nodes=pace, handshake_wait_s=15, clock=clock) as front,
        ):
            hands_over(front, node.path)
            callers: list[Caller] = []
            for number in range(12):
                callers += await arriving(front, 1, upgrade_request("/echo"))
                await eventually(lambda number=number: node.adoption.count + front.front.waiting == number + 1)  # type: ignore[misc]
            assert node.adoption.count == 5
            await lastingly(lambda: front.front.waiting == 7, 0.1)
            for caller in callers[:5]:
                assert (await caller.head()).split()[1] == b"101"
            for number, caller in enumerate(callers[5:], 1):
                clock.now += 1 / 45
                assert (await caller.head()).split()[1] == b"101"
                assert front.front.waiting == 7 - number
            assert front.metrics.totals.rejected == {}

    run(main)


def test_who_would_wait_too_long_is_sent_away_until_another_moment(run: Run, tmp_path: Path) -> None:
    """503 with Retry-After, spread by chance, and a counter with a name."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path) as node,
            balancer(node.port, nodes={"max_connections": 1}, most_waiting=5, handshake_wait_s=0.3) as front,
        ):
            hands_over(front, node.path)
            callers = await arriving(front, 40, upgrade_request("/echo"))
            heads = [await caller.head() for caller in callers]
            counts = Counter(head.split()[1] for head in heads)
            assert counts == {b"101": 1, b"503": 39}
            waits = {head.partition(b"Retry-After: ")[2].split()[0] for head in heads if b" 503 " in head}
            assert waits <= {str(second).encode() for second in range(1, RETRY_WITHIN_S + 1)}
            assert len(waits) > 1
            assert front.metrics.totals.rejected == {"busy": 39}
            assert front.front.waiting == 0

    run(main)


def test_who_could_not_have_its_turn_in_time_is_sent_away_at_once(run: Run, tmp_path: Path) -> None:
    """With a turn each 1.5 s and a patience of 15 s ten may wait, and all ten get in; others hear while those wait."""

    async def main() -> None:
        clock = Clock()
        async with (
            adopting_node(tmp_path) as node,
            balancer(node.port, nodes={"handshakes_per_s": 1 / 1.5}, handshake_wait_s=15, clock=clock) as front,
        ):
            hands_over(front, node.path)
            callers = await arriving(front, 40, upgrade_request("/echo"))
            answers = [asyncio.ensure_future(caller.head()) for caller in callers]
            await eventually(lambda: sum(answer.done() for answer in answers) == 30)
            assert Counter(answer.result().split()[1] for answer in answers if answer.done()) == {b"101": 1, b"503": 29}
            assert front.front.waiting == 10
            for number in range(9, -1, -1):
                clock.now += 1.5
                await eventually(lambda number=number: front.front.waiting == number)  # type: ignore[misc]
            assert Counter([(await answer).split()[1] for answer in answers]) == {b"101": 11, b"503": 29}

    run(main)


def test_in_all_means_over_all_nodes(run: Run, tmp_path: Path) -> None:
    """`lb.handshakes_per_s` holds whatever nodes could take."""

    async def main() -> None:
        (tmp_path / "b").mkdir()
        async with (
            adopting_node(tmp_path) as one,
            adopting_node(tmp_path / "b") as two,
            balancer(one.port, two.port, handshakes_per_s=5.0, handshake_wait_s=0, clock=Clock()) as front,
        ):
            hands_over(front, one.path, two.path)
            assert await statuses(await arriving(front, 20, upgrade_request("/echo"))) == {101: 1, 503: 19}

    run(main)


@pytest.mark.parametrize("request_", [upgrade_request("/ws"), POLLING])
def test_the_long_way_is_paced_as_well(run: Run, request_: bytes) -> None:
    """A tunnel, and a session that begins with long polling."""

    async def main() -> None:
        async with (
            backend(answering(OK) if request_ is POLLING else tunnel_echo) as node,
            balancer(node.port, nodes={"handshakes_per_s": 1.0}, handshake_wait_s=0, clock=Clock()) as front,
        ):
            found = await statuses(await arriving(front, 10, request_))
            assert found == {200 if request_ is POLLING else 101: 1, 503: 9}
            assert len(node.heads) == 1

    run(main)


def test_who_has_a_session_and_plain_requests_never_wait(run: Run) -> None:
    """They cost no handshake; a page must load while a crowd comes back."""

    async def main() -> None:
        async with (
            backend(answering(OK)) as node,
            balancer(node.port, nodes={"handshakes_per_s": 1.0}, handshake_wait_s=0, clock=Clock()) as front,
        ):
            sid = new_sid(tag_of("n0", SECRET.encode()))
            ours = POLLING.replace(b"polling", f"polling&sid={sid}".encode())
            assert await statuses(await arriving(front, 10, ours)) == {200: 10}
            page = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
            assert await statuses(await arriving(front, 10, page)) == {200: 10}

    run(main)


def test_a_full_node_gets_nobody_until_somebody_leaves(run: Run, tmp_path: Path) -> None:
    """Whoever comes meanwhile waits a moment, and gets the place."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port, nodes={"max_connections": 3}) as front:
            hands_over(front, node.path)
            callers = await arriving(front, 3, upgrade_request("/echo"))
            assert await statuses(callers) == {101: 3}
            (late,) = await arriving(front, 1, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 1)
            await lastingly(lambda: node.adoption.count == 3, 0.2)
            callers[0].close()
            assert (await late.head()).split()[1] == b"101"
            assert node.adoption.count == 3

    run(main)


def test_a_client_that_gives_up_leaves_the_queue(run: Run, tmp_path: Path) -> None:
    """Nobody waits behind it."""

    async def main() -> None:
        async with adopting_node(tmp_path) as node, balancer(node.port, nodes={"max_connections": 1}) as front:
            hands_over(front, node.path)
            await statuses(await arriving(front, 1, upgrade_request("/echo")))
            waiting = await arriving(front, 3, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 3)
            for caller in waiting:
                caller.close()
            await eventually(lambda: front.front.waiting == 0)

    run(main)


def test_who_waits_takes_no_more_than_a_descriptor(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transport, no task; what it sends meanwhile stays in its socket, for its node, and its leaving is noticed."""
    seen: list[Arrived] = []
    monkeypatch.setattr(Reception, "receive", lambda _, arrived: seen.append(arrived))

    async def main() -> None:
        async with (
            adopting_node(tmp_path) as node,
            balancer(node.port, nodes={"max_connections": 1}, handshake_wait_s=15, connections_per_address=4) as front,
        ):
            hands_over(front, node.path)
            (first,) = await arriving(front, 1, upgrade_request("/echo"))
            await first.head()
            (talker, leaver, last) = await arriving(front, 3, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 3)
            talker.send(frame(b"could not wait"))
            leaver.close()
            await eventually(lambda: front.front.waiting == 2 and front.front.connections == 2)
            (again,) = await arriving(front, 1, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 3)
            for gone, next_ in ((first, talker), (talker, last), (last, again)):
                gone.close()
                assert (await next_.head()).split()[1] == b"101"
                if next_ is talker:
                    assert await payload_from(talker.reader) == b"could not wait"
            assert not seen

    run(main)


def test_a_worker_that_stops_sends_those_away_who_wait(run: Run, tmp_path: Path) -> None:
    """When the time is over that it gives to what goes on: as on the long way, so on the short one."""

    async def main() -> None:
        async with full(tmp_path) as front:
            callers = await arriving(front, 2, upgrade_request("/echo"))
            callers += await arriving(front, 2, upgrade_request("/echo", Upgrade="websocket"))
            await eventually(lambda: front.front.waiting == 4)
            await front.front.stop(0.05)
            assert front.front.waiting == 0
            assert front.front.connections == 0
            for caller in callers:
                with suppress(ConnectionError):
                    await caller.rest()

    run(main)


def test_who_waits_hears_at_once_when_there_is_no_node_any_more(run: Run, tmp_path: Path) -> None:
    """Not after the whole of its wait."""

    async def main() -> None:
        async with full(tmp_path) as front:
            (late,) = await arriving(front, 1, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 1)
            front.pool.signal(front.node(), Signal.FALL, "dead")
            # Whose wait is over is counted as "busy".
            assert b" 503 " in await late.head()
            assert front.metrics.totals.rejected == {"no_node": 1}

    run(main)


def test_a_node_that_refuses_handoffs_is_left_alone(run: Run, tmp_path: Path) -> None:
    """After `eject_after` in a row; meanwhile each client was served by the other."""

    async def refusing(node: BareNode) -> None:
        link = await node.link()
        while True:
            link.say(Refused((await link.packet()).id, "out of descriptors"))
            link.client().close()

    async def main() -> None:
        async with (
            bare_node(tmp_path / "bad.sock") as bad,
            adopting_node(tmp_path) as good,
            balancer(1, good.port, health={"eject_after": 3}, balance="round_robin") as front,
        ):
            hands_over(front, bad.path, good.path)
            refuser = asyncio.ensure_future(refusing(bad))
            assert await statuses(await arriving(front, 12, upgrade_request("/echo"))) == {101: 12}
            assert front.node("n0").state is State.EJECTED
            assert front.node("n0").reason.endswith("the last: it refused a handoff: out of descriptors")
            refuser.cancel()
            await asyncio.gather(refuser, return_exceptions=True)

    run(main)


def test_a_draining_nodes_refusal_is_no_fault(run: Run, tmp_path: Path) -> None:
    """It says that it leaves; the balancer may hear that a moment later from Redis."""

    async def main() -> None:
        (tmp_path / "b").mkdir()
        async with (
            adopting_node(tmp_path) as one,
            adopting_node(tmp_path / "b") as two,
            balancer(one.port, two.port, health={"eject_after": 1}) as front,
        ):
            hands_over(front, one.path, two.path)
            one.adoption.leaving = True
            assert await statuses(await arriving(front, 10, upgrade_request("/echo"))) == {101: 10}
            assert front.node("n0").state is State.READY
            assert two.adoption.count == 10

    run(main)


def test_a_node_that_answers_upgrades_with_500_is_left_alone(run: Run) -> None:
    """Its probes may be fine."""

    async def main() -> None:
        failing = answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        async with (
            backend(failing) as bad,
            backend(tunnel_echo) as good,
            balancer(bad.port, good.port, health={"eject_after": 3}, balance="round_robin") as front,
        ):
            for _ in range(6):
                await statuses(await arriving(front, 1, upgrade_request("/ws")))
            assert front.node("n0").state is State.EJECTED
            assert "answered a WebSocket upgrade with 500" in front.node("n0").reason
            assert await statuses(await arriving(front, 5, upgrade_request("/ws"))) == {101: 5}
            assert len(bad.heads) == 3

    run(main)


def test_a_node_that_takes_too_long_to_open_websockets_is_left_alone(run: Run) -> None:
    """`slow_handshake_s`: they are opened, and counted as failed."""

    clock = Clock()

    async def slow(conversation: Conversation, head: bytes) -> None:
        clock.now += 0.15
        await tunnel_echo(conversation, head)

    async def main() -> None:
        async with (
            backend(slow) as bad,
            balancer(
                bad.port, health={"eject_after": 2, "slow_handshake_s": 0.1, "panic_percent": 0}, clock=clock
            ) as front,
        ):
            for _ in range(2):
                assert await statuses(await arriving(front, 1, upgrade_request("/ws"))) == {101: 1}
            assert front.node().state is State.EJECTED

    run(main)


def test_of_many_who_wait_only_so_many_get_in_as_there_is_room(run: Run, tmp_path: Path) -> None:
    """They are looked at together: each that is let in counts for the next, also where the node does not count."""

    async def main() -> None:
        async with (
            adopting_node(tmp_path) as node,
            balancer(node.port, nodes={"max_connections": 3}, handshake_wait_s=15) as front,
        ):
            hands_over(front, node.path)
            callers = await arriving(front, 3, upgrade_request("/echo"))
            assert await statuses(callers) == {101: 3}
            await arriving(front, 20, upgrade_request("/echo"))
            await eventually(lambda: front.front.waiting == 20)
            callers[0].close()
            callers[1].close()
            await eventually(lambda: front.front.waiting == 18)
            await lastingly(lambda: front.front.waiting == 18 and front.metrics.totals.rejected == {}, 0.3)
            await eventually(lambda: node.adoption.count == 3)

    run(main)
