"""lb/health.py: the watch in virtual time, and the loop against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Health as Settings
from cluster.member import Drain, NodeRecord, Signal, State
from lb.health import SOON_S, SPREAD, Health, Watch
from lb.pool import DRAINED, UNDRAINED, Change, Node, Pool
from lb.probe import Found
from lb.terms import Terms
from tests.lb.conftest import Run
from tests.support.ports import free_port
from tests.support.upstreams import silent_server, socketio_node
from tests.support.waiting import eventually

SETTINGS = Settings(interval_s=2.0, rise=2, fall=3)
LONG_AGO = -1_000.0


def watch(settings: Settings = SETTINGS, joined: float = LONG_AGO) -> Watch:
    return Watch(settings, joined, rng=lambda: 0.5)


def test_a_node_that_joined_is_probed_at_once() -> None:
    """A new node should serve as soon as it can."""
    assert watch(joined=7.0).due == 7.0


def test_a_node_rises_after_so_many_successes_in_a_row() -> None:
    """`rise` is 2: one failure between starts the count again."""
    it = watch()
    results = [it.passed(0.0), it.failed(1.0, State.DOWN), it.passed(2.0), it.passed(3.0), it.passed(4.0)]
    assert results == [None, None, None, Signal.RISE, Signal.RISE]


def test_a_node_falls_after_so_many_failures_in_a_row() -> None:
    """`fall` is 3: a success between starts the count again."""
    it = watch()
    results = [it.failed(0.0, State.READY), it.failed(1.0, State.READY), it.passed(2.0)]
    results += [it.failed(at, State.READY) for at in (3.0, 4.0, 5.0)]
    assert results == [None, None, None, None, None, Signal.FALL]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_signals_follow_from_the_last_results_alone(results: list[bool], rise: int, fall: int) -> None:
    """RISE exactly when the last `rise` results are successes, FALL exactly when the last `fall` are failures."""
    it = watch(Settings(rise=rise, fall=fall))
    for at, is_well in enumerate(results):
        signal = it.passed(at) if is_well else it.failed(at, State.READY)
        seen = results[: at + 1]
        risen = len(seen) >= rise and all(seen[-rise:])
        fallen = len(seen) >= fall and not any(seen[-fall:])
        assert signal is (Signal.RISE if risen else Signal.FALL if fallen else None)


def test_probes_of_a_served_node_keep_their_interval_from_start_to_start() -> None:
    """A timeout must not stretch the interval: a hung node is found within fall * interval."""
    it = watch()
    it.passed(10.0)
    assert it.due == 12.0
    it.failed(12.0, State.READY)
    assert it.due == 14.0


@given(st.floats(0, 1, exclude_max=True))
def test_delays_are_spread_so_that_probes_do_not_align(chance: float) -> None:
    """Each delay is the interval, give or take a tenth."""
    it = Watch(SETTINGS, LONG_AGO, rng=lambda: chance)
    it.passed(0.0)
    assert 2.0 * (1 - SPREAD) <= it.due <= 2.0 * (1 + SPREAD)


@pytest.mark.parametrize("state", [State.JOINING, State.DOWN])
def test_a_node_that_serves_nobody_is_looked_at_often_at_first(state: State) -> None:
    """From 0.2 s on, doubling up to the interval."""
    it, began, delays = watch(), 0.0, []
    for _ in range(6):
        it.failed(began, state)
        delays.append(round(it.due - began, 3))
        began = it.due
    assert delays == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_quick_looks_never_exceed_a_short_interval() -> None:
    """`interval_s` is the most that a probe waits."""
    it = watch(Settings(interval_s=0.05))
    it.failed(0.0, State.DOWN)
    assert it.due == pytest.approx(0.05)


def test_a_node_found_dead_by_others_is_probed_within_a_moment_and_counts_anew() -> None:
    """A refused connection on the data path: what the probes counted before is worth nothing."""
    it = watch()
    it.passed(0.0)
    it.hurry(0.5)
    assert it.due <= 0.5 + SOON_S
    assert it.passed(0.6) is None
    assert it.passed(0.7) is Signal.RISE


def test_hurrying_never_postpones() -> None:
    """A probe that is due stays due."""
    it = watch(joined=1.0)
    it.hurry(5.0)
    assert it.due == 1.0


def test_a_node_that_starts_has_the_time_in_which_a_ready_one_would_fall() -> None:
    """Its quick failures do not make it fall before fall * interval: six seconds here."""
    it = watch(joined=0.0)
    assert [it.failed(at, State.JOINING) for at in (0.0, 0.2, 0.6, 1.4, 3.0, 5.0)] == [None] * 6
    assert it.failed(6.0, State.JOINING) is Signal.FALL


def test_a_leaving_node_counts_for_neither() -> None:
    """It must not fall for saying so: it still serves those that it has."""
    it = watch()
    it.failed(0.0, State.READY)
    it.failed(1.0, State.READY)
    it.skipped(2.0)
    assert it.due == 4.0
    assert it.failed(4.0, State.READY) is None


# --- the loop ---------------------------------------------------------------------------------------------------

QUICK = Settings(interval_s=0.1, timeout_s=30.0, rise=1, fall=2)


class Prober:
    """Answers probes as the test says, by port; `times` says when each port was probed."""

    def __init__(self) -> None:
        self.found: dict[int, Found] = {}
        self.times: dict[int, list[float]] = {}
        self.hold: asyncio.Event | None = None

    async def __call__(self, host: str, port: int, settings: Settings) -> Found:
        self.times.setdefault(port, []).append(time.monotonic())
        answer = self.found.get(port, Found())
        if self.hold is not None:
            await self.hold.wait()
        return answer


class Scene:
    """A pool and its health loop; `changes` lists what happened."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.pool = Pool(time.monotonic, self.changes.append)

    @asynccontextmanager
    async def watched(self, settings: Settings = QUICK, prober: Prober | None = None) -> AsyncIterator[Pool]:
        health = Health(self.pool, settings) if prober is None else Health(self.pool, settings, prober)
        task = asyncio.create_task(health.run())
        try:
            yield self.pool
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert self.pool.watchers == []

    def path_of(self, name: str) -> list[State]:
        return [change.after for change in self.changes if change.node == name]


def record(name: str = "n3000", **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a"} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


async def is_in(node: Node, state: State) -> None:
    await eventually(lambda: node.state is state, what=f"{node.name} {state}, is {node.state}")


def test_a_real_node_rises_falls_and_comes_back(run: Run) -> None:
    """Stopped and started again on its port, it goes down with the reason and is ready again."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node("n3000") as real, scene.watched() as pool:
            node = pool.add_static("127.0.0.1", real.port, "n3000")
            await is_in(node, State.READY)
            await real.stop()
            await is_in(node, State.DOWN)
            assert node.reason == "connection refused"
            await real.start()
            await is_in(node, State.READY)
            await eventually(lambda: real.sessions == 0)
        assert scene.path_of("n3000") == [State.READY, State.DOWN, State.READY]

    run(main)


def test_a_node_that_comes_back_well_is_no_panic(run: Run) -> None:
    """It was down and answers; it is not ill, and nobody is to be warned for a moment."""

    async def main() -> None:
        scene, prober, panics = Scene(), Prober(), list[str]()
        scene.pool.terms = Terms(panic_percent=50)
        scene.pool.on_panic = lambda begins, reason: panics.append(reason)
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000, "n3000")
            await is_in(node, State.READY)
            prober.found[3000] = Found("connection refused")
            await is_in(node, State.DOWN)
            prober.found[3000] = Found()
            await is_in(node, State.READY)
        assert panics == []

    run(main)


def test_a_node_that_accepts_and_never_answers_goes_down(run: Run) -> None:
    """Its socket listens, its process hangs."""

    async def main() -> None:
        scene = Scene()
        impatient = QUICK.model_copy(update={"timeout_s": 0.2})
        async with silent_server() as port, scene.watched(impatient) as pool:
            node = pool.add_static("127.0.0.1", port)
            await is_in(node, State.DOWN)
            assert node.reason == "no answer to GET /healthz within 0.2 s"

    run(main)


def test_a_hanging_node_does_not_delay_the_probes_of_others(run: Run) -> None:
    """Nodes are probed concurrently."""

    async def main() -> None:
        scene = Scene()
        slow = Settings(interval_s=0.1, timeout_s=600.0)
        async with silent_server() as port, socketio_node() as real, scene.watched(slow) as pool:
            pool.add_static("127.0.0.1", port)
            node = pool.add_static("127.0.0.1", real.port)
            await is_in(node, State.READY)

    run(main)


def test_nodes_that_were_there_before_the_loop_are_probed_too(run: Run) -> None:
    """Configured nodes enter the pool before anything runs."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        node = scene.pool.add_static("127.0.0.1", 3000)
        async with scene.watched(prober=prober):
            await is_in(node, State.READY)

    run(main)


def test_a_node_that_the_data_path_found_dead_comes_back_only_after_a_success_and_soon(run: Run) -> None:
    """A refused connection takes it out at once; with an interval of ten minutes it is still probed soon."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(Settings(interval_s=600.0), prober) as pool:
            node = pool.add_static("127.0.0.1", 3000)
            await is_in(node, State.READY)
            prober.found[3000] = Found("connection refused")
            pool.signal(node, Signal.FALL, "connection refused")
            await eventually(lambda: len(prober.times[3000]) >= 3)
            assert node.state is State.DOWN
            prober.found[3000] = Found()
            await is_in(node, State.READY)

    run(main)


def test_a_result_older_than_the_last_change_does_not_count(run: Run) -> None:
    """A probe that began before the data path found the node dead may have reached the process that died."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000)
            await is_in(node, State.READY)
            prober.hold = asyncio.Event()
            before = len(prober.times[3000])
            await eventually(lambda: len(prober.times[3000]) > before)
            pool.signal(node, Signal.FALL, "connection refused")
            held, prober.hold = prober.hold, asyncio.Event()
            before = len(prober.times[3000])
            held.set()
            await eventually(lambda: len(prober.times[3000]) > before)
            assert node.state is State.DOWN
            prober.hold.set()
            await is_in(node, State.READY)

    run(main)


@pytest.mark.parametrize("said", [State.JOINING, State.DRAINING])
def test_a_node_whose_record_says_that_it_takes_nobody_gets_nobody(run: Run, said: State) -> None:
    """It answers its probes, but it knows better."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            pool.seen([record(state=said)])
            node = pool.nodes["n3000"]
            await eventually(lambda: len(prober.times.get(3000, [])) >= 4)
            assert node.state is said
            pool.seen([record(incarnation="b")])
            await is_in(node, State.READY)

    run(main)


def test_a_node_that_finished_joining_rises_without_waiting_for_the_interval(run: Run) -> None:
    """Its record turned ready: that is news, and it is probed at once."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(Settings(interval_s=600.0), prober) as pool:
            pool.seen([record(state=State.JOINING)])
            await eventually(lambda: len(prober.times.get(3000, [])) >= 1)
            pool.seen([record(state=State.READY)])
            await is_in(pool.nodes["n3000"], State.READY)

    run(main)


def test_a_draining_node_that_was_down_is_not_brought_back(run: Run) -> None:
    """Down, up again, and its record still says draining: no traffic."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            pool.seen([record(state=State.DRAINING)])
            node = pool.nodes["n3000"]
            pool.signal(node, Signal.FALL, "connection refused")
            await eventually(lambda: len(prober.times.get(3000, [])) >= 4)
            assert node.state is State.DOWN

    run(main)


def test_a_node_without_redis_drains_by_its_healthz_and_its_successor_serves(run: Run) -> None:
    """503 with `draining` is no fault: those that it has stay; the process after it answers 200 and gets clients."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as real, scene.watched() as pool:
            node = pool.add_static("127.0.0.1", real.port, "n3000")
            await is_in(node, State.READY)
            real.status, real.body = 503, {"state": "draining"}
            await is_in(node, State.DRAINING)
            assert node.reason == "GET /healthz answered 503: draining"
            real.status = 200
            await is_in(node, State.READY)
        assert scene.path_of("n3000") == [State.READY, State.DRAINING, State.DOWN, State.READY]

    run(main)


def test_a_node_that_obeys_an_order_and_was_down_serves_those_that_it_has_again(run: Run) -> None:
    """It was lost sight of: 503 with `draining` says that it lives."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node() as real, scene.watched() as pool:
            node = pool.add_static("127.0.0.1", real.port, "n3000")
            real.status, real.body = 503, {"state": "draining"}
            pool.ordered({"n3000": Drain(since=0.0, drain_s=60.0, close_per_s=1.0)})
            pool.signal(node, Signal.FALL, "connection refused")
            assert not node.is_reachable
            await is_in(node, State.DRAINING)
            assert node.is_reachable
            assert not node.takes_new

    run(main)


def test_a_drained_node_that_answers_anything_serves_those_that_it_has(run: Run) -> None:
    """It refuses newcomers, among them the probe of an application whose /healthz says nothing of draining."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000, "n3000")
            await is_in(node, State.READY)
            pool.ordered({"n3000": Drain(since=0.0, drain_s=60.0, close_per_s=1.0)})
            prober.found[3000] = Found("WebSocket upgrade of /socket.io/ answered 503", answers=True)
            before = len(prober.times[3000])
            await eventually(lambda: len(prober.times[3000]) > before + 4)
            assert node.state is State.DRAINING
            prober.found[3000] = Found("connection refused")
            await is_in(node, State.DOWN)

    run(main)


def test_without_a_record_an_order_is_over_when_the_node_says_so(run: Run) -> None:
    """It hears later than we that the order was taken back: no way out and in again, and no wrong reason."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000, "n3000")
            await is_in(node, State.READY)
            pool.ordered({"n3000": Drain(since=0.0, drain_s=60.0, close_per_s=1.0)})
            prober.found[3000] = Found("GET /healthz answered 503: draining", leaving=True)
            await eventually(lambda: node.leaving)
            pool.ordered({})
            before = len(prober.times[3000])
            await eventually(lambda: len(prober.times[3000]) > before + 1)
            assert node.state is State.DRAINING
            prober.found[3000] = Found()
            await is_in(node, State.READY)
        assert scene.path_of("n3000") == [State.READY, State.DRAINING, State.JOINING, State.READY]
        assert [change.reason for change in scene.changes][1:3] == [DRAINED, UNDRAINED]

    run(main)


def test_probes_that_could_not_ask_take_nobody_out_and_say_so_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Nor do they bring anybody in."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000)
            await is_in(node, State.READY)
            prober.found[3000] = Found("too many open files", unknown=True)
            asked = len(prober.times[3000])
            await eventually(lambda: len(prober.times[3000]) > asked + 2 * QUICK.fall)
            assert node.state is State.READY
        assert scene.path_of(node.name) == [State.READY]

    run(main)
    assert [record.getMessage() for record in caplog.records].count("probes suspended") == 1


def test_the_reason_of_a_node_that_is_not_served_is_the_last_one(run: Run) -> None:
    """Why it fell matters less than why it does not come back."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        prober.found[3000] = Found("connection refused")
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000)
            await is_in(node, State.DOWN)
            prober.found[3000] = Found("GET /healthz answered 500")
            await eventually(lambda: node.reason == "GET /healthz answered 500")

    run(main)


def test_a_flapping_node_is_taken_out_and_brought_back_as_often_as_it_must(run: Run) -> None:
    """Each change is one, and the last result decides."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        async with scene.watched(QUICK, prober) as pool:
            node = pool.add_static("127.0.0.1", 3000, "n3000")
            for _ in range(3):
                prober.found[3000] = Found()
                await is_in(node, State.READY)
                prober.found[3000] = Found("connection refused")
                await is_in(node, State.DOWN)
        assert scene.path_of("n3000") == [State.READY, State.DOWN] * 3

    run(main)


def test_a_node_that_left_the_pool_is_probed_no_more(run: Run) -> None:
    """Also a result that comes later changes nothing."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        prober.hold = asyncio.Event()
        async with scene.watched(QUICK, prober) as pool:
            pool.seen([record()])
            node = pool.nodes["n3000"]
            await eventually(lambda: prober.times.get(3000))
            pool.seen([])
            assert node not in pool
            prober.hold.set()
            pool.add_static("127.0.0.1", 3001)
            await eventually(lambda: len(prober.times.get(3001, [])) >= 3)
            assert len(prober.times[3000]) == 1
            assert node.state is State.DOWN

    run(main)


def test_a_configured_node_is_called_as_its_sids_do(run: Run) -> None:
    """`nodes.static` gives an address only; sids must route to it."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node("n9-abc") as real, scene.watched() as pool:
            node = pool.add_static("localhost", real.port)
            assert node.name == f"localhost:{real.port}"
            await is_in(node, State.READY)
            assert pool.nodes["n9-abc"] is node

    run(main)


def test_a_configured_name_of_a_node_that_announced_itself_is_that_node(run: Run) -> None:
    """`localhost` in the configuration, 127.0.0.1 in the registry: one process is one node."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node("n9") as real, scene.watched() as pool:
            pool.seen([record("n9", port=real.port)])
            pool.add_static("localhost", real.port)
            assert len(pool.nodes) == 2
            await eventually(lambda: len(pool.nodes) == 1)
            assert pool.nodes["n9"].static
            await is_in(pool.nodes["n9"], State.READY)

    run(main)


def test_two_nodes_with_one_name_stay_two_and_are_complained_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """Both serve new clients; an operator must give them names of their own."""

    async def main() -> None:
        scene = Scene()
        async with socketio_node("n9") as one, socketio_node("n9") as two, scene.watched() as pool:
            first = pool.add_static("127.0.0.1", one.port)
            await is_in(first, State.READY)
            second = pool.add_static("127.0.0.1", two.port)
            await is_in(second, State.READY)
            before = two.asked
            await eventually(lambda: two.asked >= before + 3)
            assert (first.name, second.name) == ("n9", f"127.0.0.1:{two.port}")

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [entry.message for entry in caplog.records if "one name" in entry.message] == [
        "two nodes have one name, so clients of one may be sent to the other; give each its own --name"
    ]


def test_a_node_that_announced_itself_keeps_its_name(run: Run) -> None:
    """What it says of itself goes before what its sids claim."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        prober.found[3000] = Found(slot="other")
        async with scene.watched(QUICK, prober) as pool:
            pool.seen([record()])
            await is_in(pool.nodes["n3000"], State.READY)
            assert list(pool.nodes) == ["n3000"]

    run(main)


def test_a_hundred_nodes_are_probed_without_aligning(run: Run) -> None:
    """All join at one moment; after a few rounds their probes are spread over the interval."""

    async def main() -> None:
        scene, prober = Scene(), Prober()
        for port in range(3000, 3100):
            scene.pool.add_static("127.0.0.1", port)
        async with scene.watched(Settings(interval_s=0.2), prober):
            await eventually(lambda: all(len(prober.times.get(port, [])) >= 6 for port in range(3000, 3100)))
        sixth = sorted(times[5] for times in prober.times.values())
        assert sixth[-1] - sixth[0] > 0.01

    run(main)


def test_a_probe_that_breaks_brings_the_worker_down_loudly(run: Run) -> None:
    """A bug is not a sick node: the supervisor must see it."""

    async def broken(host: str, port: int, settings: Settings) -> Found:
        raise RuntimeError("a bug")

    async def main() -> None:
        pool = Pool(time.monotonic)
        pool.add_static("127.0.0.1", free_port())
        with pytest.raises(ExceptionGroup) as caught:
            await Health(pool, QUICK, broken).run()
        assert caught.group_contains(RuntimeError, match="a bug")
        assert pool.watchers == []

    run(main)
