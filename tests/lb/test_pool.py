"""lb/pool.py: the nodes as the balancer sees them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.member import NEXT, NodeRecord, Signal, State
from lb.pool import Change, Node, Path, Pool
from lb.terms import Terms
from tests.support.clock import Clock


class Scene:
    """A pool, and what it told its listeners."""

    def __init__(self) -> None:
        self.clock = Clock(100.0)
        self.changes: list[Change] = []
        self.told: list[Node] = []
        self.pool = Pool(self.clock, self.changes.append, [self.told.append])

    def ready(self, node: Node) -> Node:
        self.pool.signal(node, Signal.RISE, "answers its probes")
        return node


def record(name: str = "n3000", port: int = 3000, **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "10.0.0.5", "incarnation": "a"} | facts
    return NodeRecord(name=name, port=port, **values)  # type: ignore[arg-type]


def test_a_configured_node_is_named_by_its_address_until_it_is_known_better() -> None:
    """An IPv6 address keeps its brackets."""
    pool = Scene().pool
    names = [
        pool.add_static("10.0.0.5", 3000).name,
        pool.add_static("::1", 3000).name,
        pool.add_static("h", 1, "x").name,
    ]
    assert names == ["10.0.0.5:3000", "[::1]:3000", "x"]
    assert all(node.static and node.state is State.JOINING for node in pool)


def test_an_address_that_is_configured_twice_is_one_node() -> None:
    """`nodes.local` and `nodes.static` may name the same one."""
    pool = Scene().pool
    assert pool.add_static("127.0.0.1", 3000, "n3000") is pool.add_static("127.0.0.1", 3000)
    assert list(pool.nodes) == ["n3000"]


def test_an_announced_node_joins_and_is_not_static() -> None:
    """It must still answer a probe before it gets clients."""
    pool = Scene().pool
    pool.seen([record()])
    node = pool.nodes["n3000"]
    assert (node.state, node.static, node.host, node.port) == (State.JOINING, False, "10.0.0.5", 3000)
    assert not node.takes_new
    assert not node.is_reachable


def test_a_configured_node_that_announces_itself_stays_one_node_and_takes_its_own_name() -> None:
    """Its sids carry the name that it announces; its state does not change by that."""
    scene = Scene()
    node = scene.ready(scene.pool.add_static("10.0.0.5", 3000))
    scene.pool.seen([record("n3000-abc")])
    assert scene.pool.nodes["n3000-abc"] is node
    assert node.former_names == ("10.0.0.5:3000",)
    assert node.state is State.READY


def test_a_node_that_is_gone_leaves_unless_it_is_configured() -> None:
    """A configured one stays, down, at its configured address."""
    scene = Scene()
    scene.pool.add_static("app.example", 80, "fixed")
    scene.pool.seen([record("fixed", host="10.0.0.9", port=3009), record("guest", port=3001)])
    fixed, guest = scene.ready(scene.pool.nodes["fixed"]), scene.ready(scene.pool.nodes["guest"])
    assert (fixed.host, fixed.port) == ("10.0.0.9", 3009)
    scene.pool.seen([])
    assert list(scene.pool) == [fixed]
    assert (fixed.state, fixed.host, fixed.port, fixed.record) == (State.DOWN, "app.example", 80, None)
    assert guest.state is State.DOWN
    assert guest not in scene.pool


def test_a_configured_node_that_never_announced_itself_is_not_taken_out_by_the_registry() -> None:
    """Any HTTP server may be a static node."""
    scene = Scene()
    node = scene.ready(scene.pool.add_static("10.0.0.5", 3000))
    scene.pool.seen([record("other", port=4000)])
    scene.pool.seen([])
    assert node.state is State.READY


def test_a_new_process_under_the_same_name_must_show_that_it_serves() -> None:
    """The one that we knew is no more, whatever its probes said a moment ago."""
    scene = Scene()
    scene.pool.seen([record()])
    node = scene.ready(scene.pool.nodes["n3000"])
    scene.pool.seen([record(incarnation="b", port=3005)])
    assert (node.state, node.reason, node.port) == (State.DOWN, "replaced by a new process", 3005)


def test_a_node_that_says_that_it_leaves_drains() -> None:
    """It is reachable for those that it has, and takes nobody new."""
    scene = Scene()
    scene.pool.seen([record()])
    node = scene.ready(scene.pool.nodes["n3000"])
    scene.pool.seen([record(state=State.DRAINING)])
    assert (node.state, node.takes_new, node.is_reachable) == (State.DRAINING, False, True)
    scene.pool.seen([record(state=State.DRAINING, incarnation="b")])
    assert node.state is State.DOWN


def test_two_records_with_one_address_are_two_nodes_until_one_lease_ends() -> None:
    """A node that was renamed: its old record still waits for the end of its lease; names must not swap to and fro."""
    pool = Scene().pool
    pool.seen([record("old")])
    old = pool.nodes["old"]
    for _ in range(2):
        pool.seen([record("new"), record("old")])
        assert sorted(pool.nodes) == ["new", "old"]
        assert pool.nodes["old"] is old
    pool.seen([record("new")])
    assert list(pool.nodes) == ["new"]


def test_clients_placed_since_the_last_report_are_never_missed() -> None:
    """A reading without a new report forgets nobody, nor does a report that was written while they were under way."""
    pool = Scene().pool
    pool.seen([record(connections=5, uptime_s=1.0)])
    node = pool.nodes["n3000"]
    node.placed += 2
    assert node.connections == 7
    pool.seen([record(connections=5, uptime_s=1.0)])
    assert node.connections == 7
    pool.seen([record(connections=5, uptime_s=2.0)])
    assert node.connections == 7, "the report crossed with them"
    pool.seen([record(connections=7, uptime_s=3.0)])
    assert node.connections == 7, "and the next one counts them"


def test_without_a_record_our_own_tunnels_are_all_that_is_known() -> None:
    """A plain server says nothing of itself."""
    node = Scene().pool.add_static("10.0.0.5", 3000)
    node.tunnels = 3
    assert node.connections == 3
    assert node.path is Path.TUNNEL


def test_renaming_refuses_a_name_that_is_taken_and_a_node_that_is_gone() -> None:
    """One name, one node."""
    scene = Scene()
    one, two = scene.pool.add_static("h", 1), scene.pool.add_static("h", 2)
    assert scene.pool.rename(one, "n1")
    assert not scene.pool.rename(two, "n1")
    scene.pool.seen([record("guest", port=9)])
    guest = scene.pool.nodes["guest"]
    scene.pool.seen([])
    assert not scene.pool.rename(guest, "n9")
    assert sorted(scene.pool.nodes) == ["h:2", "n1"]


def test_two_nodes_that_are_one_process_become_one() -> None:
    """The name that sids carry stays, and the configuration's hold on it."""
    scene = Scene()
    scene.pool.seen([record()])
    found = scene.pool.nodes["n3000"]
    static = scene.pool.add_static("app.example", 3000)
    scene.pool.same(static, found)
    assert list(scene.pool) == [found]
    assert (found.configured, found.former_names) == (("app.example", 3000), ("app.example:3000",))
    assert scene.told[-1] is static
    scene.pool.seen([])
    assert (found.host, found in scene.pool) == ("app.example", True)


def test_a_change_says_what_happened_and_when() -> None:
    """Name, before, after, signal, reason, monotonic seconds."""
    scene = Scene()
    node = scene.pool.add_static("h", 1, "n1")
    scene.clock.now = 107.5
    scene.pool.signal(node, Signal.RISE, "answers its probes")
    assert scene.changes == [Change("n1", State.JOINING, State.READY, Signal.RISE, "answers its probes", 107.5)]
    assert (node.since, node.reason) == (107.5, "answers its probes")


def test_a_signal_that_changes_nothing_is_not_told() -> None:
    """Each probe of a ready node is a RISE; the log must not fill with them."""
    scene = Scene()
    node = scene.ready(scene.pool.add_static("h", 1))
    before = len(scene.told)
    scene.clock.now += 50
    scene.pool.signal(node, Signal.RISE, "again")
    assert len(scene.changes) == 1
    assert len(scene.told) == before
    assert (node.since, node.reason) == (100.0, "answers its probes")


def test_watchers_hear_of_joining_of_news_and_of_leaving() -> None:
    """A heartbeat with the same state and process is no news."""
    scene = Scene()
    scene.pool.seen([record()])
    node = scene.pool.nodes["n3000"]
    assert scene.told == [node, node]
    scene.told.clear()
    scene.pool.seen([record(uptime_s=1.0)])
    assert scene.told == []
    scene.pool.seen([])
    assert scene.told == [node, node]
    assert node not in scene.pool


def test_an_exchange_counts_while_it_lasts_however_it_ends() -> None:
    """An exception gives the place back too."""
    pool = Scene().pool
    node = pool.add_static("h", 1)

    def broken() -> None:
        with pool.carrying(node):
            assert node.exchanges == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert node.exchanges == 0


def test_the_pool_cannot_be_changed_behind_its_back() -> None:
    """`nodes` is a view."""
    with pytest.raises(TypeError):
        Scene().pool.nodes["x"] = None  # type: ignore[index]


RECORDS = st.lists(
    st.builds(
        record,
        name=st.sampled_from(["a", "b", "c"]),
        port=st.integers(1, 3),
        incarnation=st.sampled_from(["x", "y"]),
        state=st.sampled_from([State.JOINING, State.READY, State.DRAINING]),
    ),
    max_size=3,
    unique_by=lambda each: each.name,
)
SIGNALS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Signal))), max_size=4)


Story = list[tuple[list[NodeRecord], list[tuple[int, Signal]]]]


@given(st.lists(st.tuples(RECORDS, SIGNALS), max_size=12))
def test_whatever_happens_the_pool_stays_in_order(story: Story) -> None:
    """Every node under its own name, every record and configured node in the pool, every change from the table."""
    scene = Scene()
    fixed = [scene.pool.add_static("10.0.0.5", 1), scene.pool.add_static("elsewhere", 2)]
    for records, signals in story:
        scene.pool.seen(records)
        for which, signal in signals:
            scene.pool.signal(list(scene.pool)[which % len(scene.pool.nodes)], signal, "test")
        assert all(name == node.name for name, node in scene.pool.nodes.items())
        assert {each.name for each in records} <= set(scene.pool.nodes)
        assert all(node in scene.pool for node in fixed)
        assert len({id(node) for node in scene.pool}) == len(scene.pool.nodes)
        assert all((node.record is not None or node.static) for node in scene.pool)
    for change in scene.changes:
        assert NEXT[change.before, change.signal] is change.after
        assert change.before is not change.after


def test_every_state_and_signal_has_an_outcome() -> None:
    """A missing pair would be a KeyError in production."""
    assert set(NEXT) == set(itertools.product(State, Signal))


def test_a_node_that_cannot_be_reached_or_is_gone_is_dead_whatever_it_answered_before() -> None:
    """In panic those are used that live."""
    for ends in ("unreachable", "gone"):
        scene = Scene()
        scene.pool.terms = Terms(panic_percent=50)
        node = scene.pool.add_static("10.0.0.5", 3000)
        node.answers = True
        scene.pool.signal(node, Signal.FALL, "GET /healthz answered 500")
        assert node.takes_new
        if ends == "gone":
            scene.pool.signal(node, Signal.GONE, "its lease ended")
            scene.pool.muster()
        else:
            scene.pool.unreachable(node, "connection refused")
        assert (node.takes_new, scene.pool.in_panic) == (False, False)
