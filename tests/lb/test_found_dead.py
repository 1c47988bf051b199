"""Requests that are made at a second node, and which of the two that counts for or against."""

from __future__ import annotations

from cluster.member import Signal, State
from cluster.tag import new_sid, tag_of
from tests.lb.conftest import Run
from tests.support.backends import OK, Backend, Conversation, answering, backend, hanging, tunnel_echo
from tests.support.balancer import SECRET, Balancer, Caller, balancer, upgrade_request
from tests.support.waiting import eventually, lastingly


async def waiting_at(lb: Balancer, node: Backend, *requests: bytes) -> list[Caller]:
    """Send each request on a connection of its own to n0, which hangs."""
    lb.node("n1").tunnels += 100
    callers = [await lb.connect() for _ in requests]
    for caller, request in zip(callers, requests, strict=True):
        caller.send(request)
    await eventually(lambda: len(node.heads) == len(requests), what="all requests are at the node")
    lb.node("n1").tunnels -= 100
    return callers


def die(lb: Balancer, *, answers: bool = False) -> None:
    """Let probes find n0 dead, or answering badly."""
    lb.node().answers = answers
    lb.pool.signal(lb.node(), Signal.FALL, "no answer to a probe")


def test_a_websocket_that_waits_at_a_node_that_is_found_dead_opens_at_another(run: Run) -> None:
    """Not when `answer_timeout_s` is over: its client has most likely gone by then."""

    async def main() -> None:
        async with hanging() as bad, backend(tunnel_echo) as good, balancer(bad.port, good.port) as lb:
            [caller] = await waiting_at(lb, bad, upgrade_request())
            die(lb)
            assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            caller.send(b"ping")
            assert await caller.reader.readexactly(4) == b"ping"
            await eventually(lambda: bad.conversations[0].ended.is_set())

    run(main)


def test_of_plain_requests_only_those_go_elsewhere_that_can_be_made_again(run: Run) -> None:
    """Twice done, a POST may be done twice; and a session is at its node or nowhere: that one may only be late."""
    sid = new_sid(tag_of("n0", SECRET.encode()))
    get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    poll = f"GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: h\r\n\r\n".encode()

    async def main() -> None:
        async with hanging() as bad, backend(answering(OK)) as good, balancer(bad.port, good.port) as lb:
            asked, *others = await waiting_at(lb, bad, get, post, poll)
            die(lb)
            assert (await asked.answer())[1] == b"ok"
            await lastingly(lambda: len(good.heads) == 1, 0.2)
            assert not any(other.reader.at_eof() for other in others)

    run(main)


def test_a_node_that_answers_its_probes_badly_is_waited_for(run: Run) -> None:
    """It is at work."""

    async def main() -> None:
        async with hanging() as bad, backend(tunnel_echo) as good, balancer(bad.port, good.port) as lb:
            await waiting_at(lb, bad, upgrade_request())
            die(lb, answers=True)
            await lastingly(lambda: not good.heads and not bad.conversations[0].ended.is_set(), 0.2)

    run(main)


def test_a_request_moves_once_and_is_a_502_when_the_next_node_dies_as_well(run: Run) -> None:
    """What hangs one node after the other must not go round."""

    async def main() -> None:
        async with (
            hanging() as one,
            hanging() as two,
            hanging() as three,
            balancer(one.port, two.port, three.port) as lb,
        ):
            lb.node("n2").tunnels += 100
            [caller] = await waiting_at(lb, one, upgrade_request())
            die(lb)
            await eventually(lambda: len(two.heads) == 1)
            lb.pool.signal(lb.node("n1"), Signal.FALL, "no answer to a probe")
            assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
            assert not three.heads

    run(main)


def test_a_node_that_breaks_off_websockets_is_ejected_though_each_opens_elsewhere(run: Run) -> None:
    """What the second node does well is no credit to the first."""

    async def breaks_off(conversation: Conversation, head: bytes) -> None:
        conversation.reset()

    async def main() -> None:
        rules = {"eject_after": 3, "panic_percent": 0}
        async with (
            backend(breaks_off) as bad,
            backend(tunnel_echo) as good,
            balancer(bad.port, good.port, health=rules, balance="round_robin") as lb,
        ):
            while lb.node().state is not State.EJECTED:
                caller = await lb.connect()
                caller.send(upgrade_request())
                assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            assert len(bad.heads) == 3
            assert lb.node("n1").conduct.failures == 0

    run(main)


def test_the_time_that_one_node_took_is_not_held_against_the_next(run: Run) -> None:
    """`slow_handshake_s` counts from when a node was asked."""

    async def main() -> None:
        rules = {"eject_after": 1, "slow_handshake_s": 0.15, "panic_percent": 0}
        async with hanging() as bad, backend(tunnel_echo) as good, balancer(bad.port, good.port, health=rules) as lb:
            [caller] = await waiting_at(lb, bad, upgrade_request())
            await lastingly(lambda: not good.heads, 0.2)
            die(lb)
            assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            assert lb.node("n1").state is State.READY

    run(main)


def test_a_101_that_answers_another_key_counts_as_a_failure(run: Run) -> None:
    """Whatever said that, it was no WebSocket server, or not to this client."""
    fake = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    async def main() -> None:
        rules = {"eject_after": 1, "panic_percent": 0}
        async with backend(answering(fake)) as node, balancer(node.port, health=rules) as lb:
            caller = await lb.connect()
            caller.send(upgrade_request())
            assert (await caller.head()).startswith(b"HTTP/1.1 502 ")
            assert lb.node().state is State.EJECTED

    run(main)


def test_connections_that_wait_for_reuse_end_with_their_node(run: Run) -> None:
    """It may be back before they are stale, and what is between us and it have forgotten them."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await caller.answer()
            assert not node.conversations[0].ended.is_set()
            die(lb)
            await eventually(lambda: node.conversations[0].ended.is_set())
            lb.pool.signal(lb.node(), Signal.RISE, "for a test")
            caller.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await caller.answer()
            assert (lb.node().state, len(node.conversations)) == (State.READY, 2)

    run(main)
