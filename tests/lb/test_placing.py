"""Where new clients are placed: weights, what nodes say of themselves, room, slow start, and too few that are well."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.config import Balance, Config, Lb, Stickiness
from cluster.member import Drain, NodeRecord, Signal, State
from lb.affinity import Client
from lb.errors import NoNodeAvailable
from lb.policies import ip_hash, least_connections, round_robin
from lb.pool import DRAINED, Change, Node, Pool
from lb.route import By, Router
from lb.terms import Terms

ORDER = Drain(since=0.0, drain_s=5.0, close_per_s=100.0)


class Scene:
    """A pool in virtual time, with nodes a, b, c …, ready and long there unless told."""

    def __init__(self, count: int = 3, **terms: Any) -> None:
        self.now = 1000.0
        self.changes: list[Change] = []
        self.panics: list[bool] = []
        self.pool = Pool(
            lambda: self.now,
            self.changes.append,
            terms=Terms(**terms),
            on_panic=lambda begins, _: self.panics.append(begins),
        )
        self.records: dict[str, NodeRecord] = {}
        for name in "abcdefgh"[:count]:
            self.join(name)
        self.now += 1000

    def join(self, name: str, **facts: Any) -> Node:
        self.say(name, **facts)
        node = self.pool.nodes[name]
        self.pool.signal(node, Signal.RISE, "answers its probes")
        return node

    def say(self, name: str, **facts: Any) -> None:
        """Let a node report, as with a heartbeat."""
        values: dict[str, Any] = {"name": name, "host": "h", "port": 3000 + ord(name), "incarnation": "1"}
        self.records[name] = NodeRecord(**(values | facts))
        self.pool.seen(list(self.records.values()))

    def node(self, name: str) -> Node:
        return self.pool.nodes[name]

    def placed(self, router: Router, times: int, address: str = "192.0.2.1", cookie: str | None = None) -> Counter[str]:
        """Place `times` clients at this moment; "" counts those for whom there was no room."""
        found: Counter[str] = Counter()
        client = Client(sid=False, session=None, cookie=cookie, address=address)
        for _ in range(times):
            choice = router.place(self.pool, client, self.now)
            found[choice.node.name if choice else ""] += 1
            if choice:
                choice.node.placed += 1
                choice.node.pace.take(self.now)
        return found


def router(**lb: Any) -> Router:
    return Router.of(Lb.model_validate(lb))


def test_a_node_of_twice_the_weight_gets_twice_the_clients() -> None:
    """By count, in turn, and by hash."""
    scene = Scene(2, weights={"a": 2.0})
    assert scene.placed(router(), 300) == {"a": 200, "b": 100}
    assert scene.placed(router(balance="round_robin"), 300) == {"a": 200, "b": 100}
    nodes = list(scene.pool)
    counts = Counter(ip_hash(nodes, f"10.0.{high}.{low}").name for high in range(8) for low in range(256))
    assert 1.8 < counts["a"] / counts["b"] < 2.2


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_changed_weight_moves_only_clients_to_or_from_that_node(before: float, after: float) -> None:
    """Between two others nobody moves: what rendezvous hashing with weights promises."""
    nodes = [Node(name, "h", 1, state=State.READY) for name in "abc"]
    addresses = [f"10.0.0.{low}" for low in range(0, 256, 4)]
    nodes[0].weight = before
    first = {address: ip_hash(nodes, address).name for address in addresses}
    nodes[0].weight = after
    second = {address: ip_hash(nodes, address).name for address in addresses}
    moved = {(first[address], second[address]) for address in addresses if first[address] != second[address]}
    assert all("a" in pair for pair in moved)


@given(st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=6))
def test_in_turn_means_by_weight_over_time(weights: list[float]) -> None:
    """Each gets its share to within one turn a node."""
    nodes = [Node(f"n{place}", "h", 1, state=State.READY, weight=weight) for place, weight in enumerate(weights)]
    choose, turns = round_robin(), 600
    counts = Counter(choose(nodes, "").name for _ in range(turns))
    for node in nodes:
        assert abs(counts[node.name] - turns * node.weight / sum(weights)) <= len(nodes) + 1


def test_weights_name_a_node_or_its_address() -> None:
    """A configured node is known by its address until it says its name."""
    pool = Pool(lambda: 0.0, terms=Terms(weights={"10.0.0.5:3000": 3.0, "n1": 2.0}))
    static = pool.add_static("10.0.0.5", 3000)
    assert (static.weight, pool.add_static("h", 1, "n1").weight) == (3.0, 2.0)
    pool.rename(static, "n7")
    assert static.weight == 3.0


def test_a_late_node_and_a_large_one_get_fewer() -> None:
    """100 ms beyond what is free count as twice the clients; so does three times the usual memory, nearly."""
    scene = Scene()
    for beat in range(40):
        scene.say("a", loop_lag_ms=110.0, connections=100, memory_bytes=100, uptime_s=float(beat))
        scene.say("b", connections=100, memory_bytes=100)
        scene.say("c", connections=100, memory_bytes=250)
    assert [round(scene.node(name).burden, 2) for name in "abc"] == [2.0, 1.0, 2.0]
    assert scene.placed(router(), 60) == {"b": 60}


def test_a_moment_of_lag_is_no_overload() -> None:
    """Smoothed over reports: one long collection of garbage is soon forgotten."""
    scene = Scene()
    scene.say("a", loop_lag_ms=100.0, connections=100)
    assert 1.0 < scene.node("a").burden < 1.3
    for number in range(10):
        scene.say("a", connections=number)
    assert scene.node("a").burden == 1.0


def test_what_a_node_with_a_handful_of_clients_suffers_from_is_not_their_doing() -> None:
    """A busy host makes each of its nodes late now and then: three clients still go to three nodes."""
    scene = Scene()
    for name, lag_ms in (("a", 900.0), ("b", 0.0), ("c", 300.0)):
        scene.say(name, loop_lag_ms=lag_ms, connections=1)
    assert scene.placed(router(), 3) == {"a": 1, "b": 1, "c": 1}


def test_a_full_node_gets_nobody_and_the_others_do() -> None:
    """Also those that have its cookie, who get another one; until somebody leaves."""
    scene = Scene(2, most_connections=5)
    scene.say("a", connections=5)
    assert scene.placed(router(), 3, cookie="a") == {"b": 3}
    scene.say("b", connections=5)
    for _ in range(2):  # what was placed before a report is in it by the next
        scene.say("b", connections=5, users=_ + 1)
    assert scene.placed(router(), 2) == {"": 2}
    scene.say("a", connections=4)
    assert scene.placed(router(), 2) == {"a": 1, "": 1}


def test_a_node_that_does_not_count_is_limited_by_each_worker_to_its_share() -> None:
    """Two workers see half of it each."""
    pool = Pool(lambda: 0.0, terms=Terms(most_connections=10, share=0.5))
    node = pool.add_static("h", 1, "n1")
    assert node.most == 5
    pool.seen([NodeRecord(name="n1", host="h", port=1, incarnation="1")])
    assert node.most == 10
    pool.seen([])
    assert node.most == 5


def test_a_node_is_sent_no_more_a_moment_than_its_pace() -> None:
    """100 a second, a burst of a tenth: then the others', then nobody's turn."""
    scene = Scene(2, handshakes_per_s=100.0)
    assert scene.placed(router(), 50) == {"a": 11, "b": 11, "": 28}
    scene.now += 0.02
    assert scene.placed(router(), 50) == {"a": 2, "b": 2, "": 46}


@pytest.mark.parametrize("balance", list(Balance))
def test_no_ready_node_is_an_error_and_not_a_wait(balance: Balance) -> None:
    """There is nothing to wait for."""
    scene = Scene(1)
    scene.pool.signal(scene.node("a"), Signal.FALL, "dead")
    with pytest.raises(NoNodeAvailable, match=r"\(1 known, 0 tried\)"):
        scene.placed(router(balance=balance), 1)


def test_a_node_that_joins_others_gets_its_share_step_by_step() -> None:
    """A tenth of the draws at first, all of them after `slow_start_s`: or an empty node would get everybody."""
    scene = Scene(2, slow_start_s=10.0)
    for name in "ab":
        scene.say(name, connections=500)
    new = scene.join("c")
    choose = Router(least_connections(), cookies=False, rng=random.Random(1).random)
    shares = []
    for _ in range(3):
        shares.append(scene.placed(choose, 200)["c"] / 200)
        scene.now += 5
    assert shares[0] < 0.2
    assert 0.35 < shares[1] < 0.65
    assert shares[2] == 1.0
    assert new.share(scene.now) == 1.0


def test_nodes_that_all_begin_together_begin_at_once() -> None:
    """There is nobody to spare them; the same when a worker starts and sees them for the first time."""
    scene = Scene(0, slow_start_s=10.0)
    for name in "abc":
        scene.join(name)
        scene.now += 1
    assert scene.placed(router(), 30) == {"a": 10, "b": 10, "c": 10}


def test_a_node_that_joins_a_cluster_of_few_clients_is_one_of_them_at_once() -> None:
    """Three clients go to three nodes, also where the third one took long to start."""
    scene = Scene(2, slow_start_s=10.0)
    scene.join("c")
    choose = Router(least_connections(), cookies=False, rng=lambda: 0.99)
    assert scene.placed(choose, 3) == {"a": 1, "b": 1, "c": 1}


def test_by_hash_a_node_that_joins_has_its_share_at_once() -> None:
    """All balancers must agree, whenever they saw it join."""
    scene = Scene(2, slow_start_s=10.0)
    scene.join("c")
    hashed = router(stickiness="ip_hash")
    assert all(
        scene.placed(hashed, 1, address)[ip_hash(list(scene.pool), address).name] == 1
        for address in (f"10.0.0.{low}" for low in range(60))
    )


def test_only_addresses_that_were_hashed_are_counted() -> None:
    """With cookies or by count one address is nobody's trouble."""
    scene = Scene()
    by_hash, by_count = router(stickiness=Stickiness.IP_HASH), router()
    scene.placed(by_hash, 150)
    scene.placed(by_count, 150)
    assert by_hash.crowd.largest() == ("192.0.2.1", 1.0)
    assert by_count.crowd.largest() == ("", 0.0)


def failing(scene: Scene, name: str, times: int = 5) -> None:
    for _ in range(times):
        scene.pool.failed(scene.node(name), "it refused")


def ejecting(count: int = 3, percent: int = 0) -> Scene:
    health = {"eject_after": 5, "panic_percent": percent}
    terms = Terms.of(
        Config.model_validate({"lb": {"health": health, "slow_start_s": 0}, "nodes": {"handshakes_per_s": 0}})
    )
    scene = Scene(count)
    scene.pool.terms = terms
    return scene


def test_a_node_that_fails_clients_gets_none_for_a_while_and_keeps_its_own() -> None:
    """It answers its probes all the time."""
    scene = ejecting()
    failing(scene, "a", 4)
    scene.pool.served(scene.node("a"))
    failing(scene, "a", 4)
    assert scene.node("a").state is State.READY
    failing(scene, "a", 1)
    assert (scene.node("a").state, scene.changes[-1].signal) == (State.EJECTED, Signal.EJECT)
    assert scene.node("a").reason == "5 in a row failed there, for 5 s; the last: it refused"
    assert "a" not in scene.placed(router(), 30)
    session = Client(sid=True, session="a", cookie=None, address="")
    assert router().route(scene.pool, session).by is By.SID


def test_a_new_process_has_a_clean_record() -> None:
    """The old one's failures were its own."""
    scene = ejecting()
    failing(scene, "a")
    scene.say("a", incarnation="2")
    assert scene.node("a").conduct.until == 0.0
    assert scene.node("a").state is State.DOWN


def test_when_too_few_are_well_all_that_answer_are_used() -> None:
    """Of three, two that answer and are not well; a dead one is never asked."""
    scene = ejecting(4, percent=50)
    failing(scene, "a")
    assert not scene.pool.in_panic
    scene.pool.signal(scene.node("d"), Signal.FALL, "connection refused")
    assert not scene.pool.in_panic
    scene.node("b").answers = True
    scene.pool.signal(scene.node("b"), Signal.FALL, "GET /healthz answered 500")
    assert scene.pool.in_panic
    assert set(scene.placed(router(), 60)) == {"a", "b", "c"}
    scene.pool.signal(scene.node("b"), Signal.RISE, "answers its probes")
    assert scene.panics == [True, False]
    assert set(scene.placed(router(), 60)) == {"b", "c"}


@pytest.mark.parametrize("said", [State.JOINING, State.DRAINING])
def test_who_is_not_there_yet_or_leaves_is_not_asked_even_then(said: State) -> None:
    """It said so itself."""
    scene = ejecting(1, percent=100)
    scene.say("a", state=said)
    scene.node("a").answers = True
    scene.pool.signal(scene.node("a"), Signal.FALL, "GET /healthz answered 503")
    assert not scene.pool.in_panic


def test_an_order_to_drain_holds_for_whoever_has_the_name() -> None:
    """Through a restart, and for a node that comes later; until it is taken back."""
    scene = Scene(2)
    scene.pool.ordered({"a": ORDER, "c": ORDER})
    assert (scene.node("a").state, scene.node("a").reason) == (State.DRAINING, DRAINED)
    scene.say("a", incarnation="2")
    scene.pool.signal(scene.node("a"), Signal.RISE, "answers its probes")
    scene.join("c")
    assert [node.state for node in scene.pool] == [State.DRAINING, State.READY, State.DRAINING]
    scene.pool.ordered({"c": ORDER})
    assert scene.node("a").state is State.JOINING
    scene.pool.signal(scene.node("a"), Signal.RISE, "answers its probes")
    assert scene.node("a").state is State.READY


def test_a_node_that_says_it_drains_does_so_until_it_says_otherwise() -> None:
    """It hears of an order that was taken back with its next heartbeat."""
    scene = Scene(2)
    scene.pool.ordered({"a": ORDER})
    scene.say("a", state=State.DRAINING)
    scene.pool.ordered({})
    assert scene.node("a").state is State.DRAINING
    scene.say("a")
    assert (scene.node("a").state, scene.changes[-1].signal) == (State.JOINING, Signal.UNDRAIN)


class Nodes(RuleBasedStateMachine):
    """Anything may happen to nodes in any order."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.scene = ejecting(3, percent=50)
        self.serial = itertools.count(2)
        self.orders: dict[str, Drain] = {}

    @rule(name=names, signal=st.sampled_from([Signal.RISE, Signal.FALL, Signal.READMIT]), answers=st.booleans())
    def probed(self, name: str, signal: Signal, answers: bool) -> None:
        if node := self.scene.pool.nodes.get(name):
            node.answers = answers
            self.scene.pool.signal(node, signal, "probed")
            self.scene.pool.muster()

    @rule(name=names, times=st.integers(1, 6))
    def fails(self, name: str, times: int) -> None:
        if name in self.scene.pool.nodes:
            failing(self.scene, name, times)

    @rule(name=names)
    def ordered(self, name: str) -> None:
        self.orders[name] = ORDER
        self.scene.pool.ordered(dict(self.orders))

    @rule(name=names)
    def lifted(self, name: str) -> None:
        self.orders.pop(name, None)
        self.scene.pool.ordered(dict(self.orders))

    @rule(name=names, state=st.sampled_from([State.READY, State.DRAINING, State.JOINING]))
    def says(self, name: str, state: State) -> None:
        self.scene.say(name, state=state, connections=next(self.serial))

    @rule(name=names)
    def restarts(self, name: str) -> None:
        self.scene.say(name, incarnation=str(next(self.serial)))

    @rule(name=names)
    def goes(self, name: str) -> None:
        self.scene.records.pop(name, None)
        self.scene.pool.seen(list(self.scene.records.values()))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.scene.now += seconds

    @invariant()
    def who_drains_gets_nobody(self) -> None:
        for node in self.scene.pool:
            if node.drain is not None:
                assert not node.takes_new
                assert node.state is not State.READY

    @invariant()
    def only_the_living_are_asked(self) -> None:
        for node in self.scene.pool:
            if node.takes_new and node.state is not State.READY:
                assert self.scene.pool.in_panic
                assert node.state is State.EJECTED or node.answers

    @invariant()
    def panic_is_when_too_few_are_well(self) -> None:
        ready = sum(node.state is State.READY for node in self.scene.pool)
        sick = sum(node.is_sick for node in self.scene.pool)
        assert self.scene.pool.in_panic is (sick > 0 and 100 * ready < 50 * (ready + sick))


TestNodes = Nodes.TestCase
