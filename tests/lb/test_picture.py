"""lb/picture.py: which records the balancer believes, in virtual time."""

from __future__ import annotations

import logging

import pytest

from cluster.config import Config
from cluster.host import slot_name
from cluster.member import Drain, NodeRecord, Signal, State
from lb.picture import Admission, Picture, add_configured
from lb.pool import Pool

LEASE_S = 5.0


def record(name: str, beat: float = 0.0, **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a", "uptime_s": beat} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


def pool() -> Pool:
    return Pool(lambda: 0.0)


def names(records: list[NodeRecord]) -> list[str]:
    return sorted(each.name for each in records)


class TestPicture:
    """Records that are missing from a reading."""

    def test_what_was_read_is_believed(self) -> None:
        """The newest record of each node."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", 1.0)], (), 0.0)
        assert picture.take([record("a", 2.0), record("b")], (), 1.0) == [record("a", 2.0), record("b")]

    def test_a_node_that_signed_off_is_gone_at_once(self) -> None:
        """Its name was announced and its record is not there."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a"), record("b")], (), 0.0)
        assert names(picture.take([record("b")], {"a"}, 0.1)) == ["b"]

    def test_a_node_that_was_leaving_is_gone_at_once_also_if_no_notice_came(self) -> None:
        """The subscription may be down just then."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", state=State.DRAINING), record("b")], (), 0.0)
        assert names(picture.take([record("b")], (), 0.1)) == ["b"]

    def test_one_that_was_leaving_by_an_order_stays_as_it_goes_on_running(self) -> None:
        """A Redis that has forgotten everything must not cost it the clients that it still has."""
        pool_ = pool()
        picture = Picture(pool_, LEASE_S)
        pool_.seen(picture.take([record("a", state=State.DRAINING), record("b")], (), 0.0))
        pool_.ordered({"a": Drain(since=0.0, drain_s=60.0, close_per_s=1.0)})
        assert names(picture.take([record("b")], (), 0.1)) == ["a", "b"]
        assert names(picture.take([record("b")], {"a"}, 0.2)) == ["b"]

    def test_one_that_drains_by_an_order_stays_when_no_node_reaches_redis(self) -> None:
        """As the others do that answer."""
        pool_ = pool()
        picture = Picture(pool_, LEASE_S)
        pool_.seen(picture.take([record("a", state=State.DRAINING)], (), 0.0))
        pool_.ordered({"a": Drain(since=0.0, drain_s=60.0, close_per_s=1.0)})
        assert pool_.nodes["a"].state is State.DRAINING
        assert names(picture.take([], (), 2 * LEASE_S)) == ["a"]

    def test_a_lease_that_ended_is_gone_no_later_than_by_our_own_clock(self) -> None:
        """Its last heartbeat was read five seconds ago."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", 1.0), record("b")], (), 0.0)
        picture.take([record("a", 1.0), record("b")], (), 4.0)
        assert names(picture.take([record("b")], (), 4.9)) == ["a", "b"]
        assert names(picture.take([record("b")], (), 5.0)) == ["b"]

    def test_a_heartbeat_renews_our_own_count_of_the_lease(self) -> None:
        """Four seconds later it said something new."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", 1.0), record("b")], (), 0.0)
        picture.take([record("a", 5.0), record("b")], (), 4.0)
        assert names(picture.take([record("b")], (), 8.9)) == ["a", "b"]
        assert names(picture.take([record("b")], (), 9.0)) == ["b"]

    def test_a_redis_that_lost_its_memory_throws_nobody_out(self) -> None:
        """Emptied in the middle: nodes announce themselves again one by one."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", 1.0), record("b", 1.0)], (), 0.0)
        assert names(picture.take([], (), 0.5)) == ["a", "b"]
        assert names(picture.take([record("b", 2.0)], {"b"}, 1.0)) == ["a", "b"]
        assert names(picture.take([record("b", 2.0), record("a", 2.0)], {"a"}, 1.2)) == ["a", "b"]

    def test_a_redis_that_comes_back_begins_all_leases_anew(self) -> None:
        """It was away for an hour and is empty: one lease of grace for everybody, then who said nothing is gone."""
        picture = Picture(pool(), LEASE_S)
        picture.take([record("a", 1.0), record("b", 1.0)], (), 0.0)
        picture.redis_came_back(3600.0)
        assert names(picture.take([], (), 3600.0)) == ["a", "b"]
        assert names(picture.take([record("a", 9.0)], {"a"}, 3601.0)) == ["a", "b"]
        assert names(picture.take([record("a", 10.0)], (), 3605.0)) == ["a"]

    def test_leases_that_end_one_after_the_other_at_once_throw_nobody_out(self) -> None:
        """Heartbeats of different nodes do not fall together, nor do the ends of their leases."""
        pool_ = pool()
        picture = Picture(pool_, LEASE_S)
        pool_.seen(picture.take([record("a", 1.0)], (), 0.0))
        pool_.seen(picture.take([record("a", 1.0), record("b", 1.0)], (), 1.0))
        for name in ("a", "b"):
            pool_.signal(pool_.nodes[name], Signal.RISE, "answers")
        assert names(picture.take([record("b", 1.0)], (), LEASE_S + 0.1)) == ["a", "b"]
        assert names(picture.take([], (), LEASE_S + 1.1)) == ["a", "b"]
        # A node that is heard all the time, or again, shows that Redis is there for those that live.
        assert names(picture.take([record("b", 2.0)], (), LEASE_S + 2.0)) == ["b"]

    def test_when_all_leases_end_nodes_that_answer_their_probes_stay(self) -> None:
        """The nodes lost Redis, we did not: that must not become an outage.  Those that fall meanwhile are gone."""
        nodes = pool()
        picture = Picture(nodes, LEASE_S)
        nodes.seen(picture.take([record("a", port=1), record("b", port=2), record("c", port=3)], (), 0.0))
        for name in ("a", "b"):
            nodes.signal(nodes.nodes[name], Signal.RISE, "answers its probes")
        assert names(picture.take([], (), 60.0)) == ["a", "b"]
        nodes.signal(nodes.nodes["b"], Signal.FALL, "connection refused")
        assert names(picture.take([], (), 61.0)) == ["a"]
        assert names(picture.take([record("d")], (), 62.0)) == ["d"]


class TestAdmission:
    """Records that are not ours to balance."""

    def test_with_discover_everybody_who_can_be_reached_may_enter(self) -> None:
        """Also one whose host we do not know."""
        records = [record("a", host_id="ours"), record("b", host="10.0.0.5", host_id="theirs"), record("c")]
        assert Admission(pool(), discover=True, our_host="ours").admitted(records) == records

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "0.0.0.0", "::"])
    def test_a_loopback_address_of_another_host_is_refused_with_one_warning(
        self, host: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It would be our own loopback; the warning says what to set, once for each process of that node."""
        admission = Admission(pool(), discover=True, our_host="ours")
        good = record("good", host="app.example", host_id="theirs")
        with caplog.at_level(logging.WARNING):
            for incarnation in ("a", "a", "b", "b"):
                bad = record("bad", host=host, host_id="theirs", incarnation=incarnation)
                assert admission.admitted([bad, good]) == [good]
        assert [entry.getMessage() for entry in caplog.records] == [
            "node ignored: it runs on another host but announces an address that only its own host reaches;"
            " set nodes.host or nodes.advertise there"
        ] * 2

    def test_a_node_that_comes_back_as_bad_as_before_is_complained_about_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Once it is out of the registry nothing of it is kept."""
        admission = Admission(pool(), discover=True, our_host="ours")
        bad = record("bad", host_id="theirs")
        with caplog.at_level(logging.WARNING):
            for records in ([bad], [bad], [], [bad]):
                assert admission.admitted(records) == []
        assert len(caplog.records) == 2

    def test_without_discover_only_configured_nodes_may_enter(self) -> None:
        """By name, or by the configured address."""
        nodes = pool()
        nodes.add_static("127.0.0.1", 3000, "n3000")
        nodes.add_static("10.0.0.5", 3000)
        by_name = record("n3000", host="192.168.0.2", port=9)
        by_address = record("n3000-xyz", host="10.0.0.5")
        stranger = record("n3001", port=3001)
        admission = Admission(nodes, discover=False)
        assert admission.admitted([by_name, by_address, stranger]) == [by_name, by_address]
        # Named by its own record by now, it is still the configured one.
        nodes.seen([by_address])
        assert admission.admitted([by_address, stranger]) == [by_address]


class TestConfigured:
    """What the configuration names is in the pool at once."""

    @pytest.mark.parametrize(
        ("redis", "private"),
        [("embedded", True), ("unix:///run/x.sock", True), ("redis://h:6379/0", False)],
    )
    def test_local_nodes_have_the_names_that_the_supervisor_gives_them(self, redis: str, private: bool) -> None:
        """`n3000` where no other host can have one, else with this host's id."""
        nodes = pool()
        add_configured(nodes, Config.model_validate({"redis": redis, "nodes": {"local": 2}}))
        assert [(node.name, node.host, node.port) for node in nodes] == [
            (slot_name(port, private_redis=private), "127.0.0.1", port) for port in (3000, 3001)
        ]
        assert all(node.static for node in nodes)

    @pytest.mark.parametrize(
        ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5"), ("::1", "::1")]
    )
    def test_a_local_node_on_a_wildcard_address_is_reached_on_loopback(self, host: str, reached: str) -> None:
        """One cannot connect to everywhere."""
        nodes = pool()
        add_configured(nodes, Config.model_validate({"nodes": {"local": 1, "host": host}}))
        assert nodes.nodes["n3000"].host == reached

    def test_static_nodes_are_added_once_each(self) -> None:
        """IPv6 addresses come without brackets; one that is a local node's is that node."""
        nodes = pool()
        urls = ["http://10.0.0.5:3000", "http://[fd00::1]:3000", "http://app", "http://127.0.0.1:3000"]
        add_configured(nodes, Config.model_validate({"nodes": {"local": 1, "static": urls}}))
        assert [(node.name, node.host, node.port) for node in nodes] == [
            ("n3000", "127.0.0.1", 3000),
            ("10.0.0.5:3000", "10.0.0.5", 3000),
            ("[fd00::1]:3000", "fd00::1", 3000),
            ("app:80", "app", 80),
        ]
