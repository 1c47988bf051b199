"""Out for a while, and back: what those who are sent to a node find, and who is cut off from Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cluster.config import Config
from cluster.config import Health as Settings
from cluster.member import Signal, State
from lb.canary import Canary
from lb.conduct import FREE_FALLS, Rules
from lb.health import Health
from lb.pool import Change, Node, Pool
from lb.terms import Terms
from tests.lb.conftest import Run
from tests.support.clock import Clock
from tests.support.upstreams import SocketIoNode, socketio_node
from tests.support.valkey import Valkey
from tests.support.waiting import eventually, lastingly

QUICK = Settings(interval_s=0.1, timeout_s=30.0, rise=1, fall=2)
RULES = Rules(after=2, first_s=0.4, most_s=1.0)


class Scene:
    """A pool with its health loop; `redis_works` is what the canary says."""

    def __init__(self, percent: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.changes: list[Change] = []
        self.redis_works = True
        self.pool = Pool(clock, self.changes.append, terms=Terms(rules=RULES, panic_percent=percent))

    @asynccontextmanager
    async def watched(self, *nodes: SocketIoNode) -> AsyncIterator[list[Node]]:
        health = Health(self.pool, QUICK, redis_works=lambda: self.redis_works)
        running = asyncio.ensure_future(health.run())
        try:
            found = [self.pool.add_static("127.0.0.1", node.port, f"n{node.port}") for node in nodes]
            for node in found:
                await is_in(node, State.READY)
            yield found
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def fail(self, node: Node, times: int = 2) -> None:
        for _ in range(times):
            self.pool.failed(node, "it refused")

    def path_of(self, node: Node) -> list[tuple[State, Signal]]:
        return [(change.after, change.signal) for change in self.changes if change.node == node.name]


async def is_in(node: Node, state: State) -> None:
    await eventually(lambda: node.state is state, what=f"{node.name} {state}, is {node.state}")


def test_an_ejected_node_comes_back_by_itself_and_stays_out_longer_the_next_time(run: Run) -> None:
    """Not before its time, though it answers its probes."""

    async def main() -> None:
        clock = Clock()
        scene = Scene(clock=clock)
        async with socketio_node() as real, scene.watched(real) as (node,):
            for seconds in (0.4, 0.8):
                asked = real.asked
                scene.fail(node)
                assert node.state is State.EJECTED
                who = "2 in a row" if seconds == 0.4 else "the first since its return"
                assert node.reason == f"{who} failed there, for {seconds:g} s; the last: it refused"
                clock.now += seconds - 0.01
                await eventually(lambda asked=asked: real.asked > asked)  # type: ignore[misc]
                await lastingly(lambda: node.state is State.EJECTED, 0.2)
                clock.now += 0.02
                await is_in(node, State.READY)
            assert scene.path_of(node)[-1] == (State.READY, Signal.READMIT)

    run(main)


def test_an_ejected_node_that_dies_is_down_and_comes_back_when_its_time_is_over(run: Run) -> None:
    """A node that flaps by dying gains nothing by it."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as real, scene.watched(real) as (node,):
            scene.fail(node)
            scene.fail(node)
            scene.pool.signal(node, Signal.FALL, "connection refused")
            assert node.state is State.DOWN
            await eventually(lambda: node.reason.startswith("answers its probes, but failed clients"))
            await is_in(node, State.READY)

    run(main)


def test_a_node_that_answers_probes_badly_is_used_where_nobody_else_is_and_a_dead_one_never(run: Run) -> None:
    """500 on /healthz is a sign of life; a closed port is none."""

    async def main() -> None:
        scene = Scene(percent=50)
        async with socketio_node() as sick, socketio_node() as dead, scene.watched(sick, dead) as (one, two):
            sick.status = 500
            await dead.stop()
            await is_in(one, State.DOWN)
            await is_in(two, State.DOWN)
            await eventually(lambda: one.takes_new)
            assert scene.pool.in_panic
            assert not two.takes_new
            sick.status = 200
            await is_in(one, State.READY)
            assert not scene.pool.in_panic

    run(main)


def test_nodes_that_are_kept_out_though_they_are_well_are_used_where_nobody_else_is(run: Run) -> None:
    """They failed clients, died and are back: that is no reason to turn everybody away for as long as five minutes."""

    async def main() -> None:
        scene = Scene(percent=50)
        scene.pool.terms = Terms(rules=Rules(after=2, first_s=60), panic_percent=50)
        async with socketio_node() as a, socketio_node() as b, scene.watched(a, b) as nodes:
            for node in nodes:
                scene.fail(node)
                scene.pool.unreachable(node, "connection refused")
                assert not node.takes_new
            await eventually(lambda: all(node.takes_new for node in nodes))
            assert all(node.state is State.DOWN for node in nodes)
            assert scene.pool.in_panic

    run(main)


def test_a_node_that_falls_again_and_again_is_kept_out_though_it_answers(run: Run) -> None:
    """Each fall costs those something who are on their way there; the event says why it is not back."""

    async def main() -> None:
        scene = Scene()
        scene.pool.terms = Terms(rules=Rules(after=2, first_s=1.5))
        async with socketio_node() as real, scene.watched(real) as (node,):
            for _ in range(FREE_FALLS):
                scene.pool.signal(node, Signal.FALL, "connection refused")
                await is_in(node, State.READY)
            scene.pool.signal(node, Signal.FALL, "connection refused")
            assert node.reason == "connection refused; it fell 3 times lately: out for 1.5 s at least"
            until = node.conduct.until
            await eventually(lambda: node.reason.startswith("answers its probes, but fell 3 times lately: "))
            await is_in(node, State.READY)
            assert node.since >= until

    run(main)


def test_a_node_that_alone_is_cut_off_from_redis_gets_no_new_clients_until_it_is_back(run: Run) -> None:
    """Its clients would hear nobody; those that it has stay."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as bad, socketio_node() as good, scene.watched(bad, good) as (one, two):
            bad.body = {"status": "degraded"}
            await is_in(one, State.EJECTED)
            assert one.reason == "it does not reach Redis, which this balancer and other nodes do"
            assert one.is_reachable
            await lastingly(lambda: one.state is State.EJECTED and two.state is State.READY, 0.6)
            bad.body = {"status": "ok"}
            await is_in(one, State.READY)

    run(main)


def test_a_node_that_alone_is_deaf_is_ejected_and_nobody_if_all_are(run: Run) -> None:
    """Redis takes commands and delivers nothing: then our own canary is not heard either."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as a, socketio_node() as b, scene.watched(a, b) as (one, two):
            a.status, a.body = 503, {"status": "deaf", "state": "ready"}
            await is_in(one, State.EJECTED)
            scene.redis_works = False
            await is_in(one, State.READY)
            b.status, b.body = a.status, a.body
            await eventually(lambda: two.degraded)
            await lastingly(lambda: one.state is two.state is State.READY, 0.6)

    run(main)


def test_a_redis_that_is_down_takes_nobody_out(run: Run) -> None:
    """All say so, or we do not hear ourselves either: nobody is to blame."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as a, socketio_node() as b, socketio_node() as c, scene.watched(a, b, c) as nodes:
            scene.redis_works = False
            a.body = {"status": "degraded"}
            await eventually(lambda: nodes[0].degraded)
            await lastingly(lambda: all(node.state is State.READY for node in nodes), 0.6)
            for each in (b, c):
                each.body = {"status": "degraded"}
            await eventually(lambda: all(node.degraded for node in nodes))
            scene.redis_works = True  # it is back, and the nodes have not noticed yet
            await lastingly(lambda: all(node.state is State.READY for node in nodes), 0.6)

    run(main)


def test_a_node_that_was_cut_off_is_let_back_in_when_redis_goes_down_for_all(run: Run) -> None:
    """Then it is as good as the others."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as bad, socketio_node() as good, scene.watched(bad, good) as (one, _):
            bad.body = {"status": "degraded"}
            await is_in(one, State.EJECTED)
            scene.redis_works = False
            await is_in(one, State.READY)

    run(main)


def config(url: str) -> Config:
    return Config.model_validate({"redis": url, "lb": {"health": {"interval_s": 0.1, "timeout_s": 0.3}}})


@asynccontextmanager
async def flying(url: str) -> AsyncIterator[Canary]:
    canary = Canary(config(url))
    running = asyncio.ensure_future(canary.run())
    try:
        yield canary
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_the_canary_is_heard_while_redis_is_there(run: Run, valkey: Valkey) -> None:
    """Not while it is away, and again when it is back."""

    async def main() -> None:
        async with flying(valkey.url) as canary:
            await eventually(canary.is_heard)
            assert canary.round_trip_s is not None
            assert canary.round_trip_s > 0
            valkey.kill()
            await eventually(lambda: not canary.is_heard())
            assert canary.round_trip_s is None
            valkey.start()
            await eventually(canary.is_heard)

    run(main)


def test_the_canary_is_missed_when_redis_hangs(run: Run, valkey: Valkey) -> None:
    """Connections are open, and nothing comes."""

    async def main() -> None:
        assert valkey.process is not None
        async with flying(valkey.url) as canary:
            await eventually(canary.is_heard)
            valkey.process.send_signal(19)  # SIGSTOP
            try:
                await eventually(lambda: not canary.is_heard())
            finally:
                valkey.process.send_signal(18)  # SIGCONT
            await eventually(canary.is_heard)

    run(main)


def test_without_redis_there_is_no_canary(run: Run) -> None:
    """And nobody can be cut off from what is not there."""

    async def main() -> None:
        canary = Canary(config("none"))
        await canary.run()
        assert not canary.is_heard()

    run(main)
