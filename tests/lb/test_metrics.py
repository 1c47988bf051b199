"""lb/metrics.py, lb/reports.py, lb/exposition.py: what is counted, summed over workers, written for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cluster.member import NodeRecord, Signal
from cluster.rundir import RunDir
from lb.exposition import exposition
from lb.histogram import ANSWER_S, HANDSHAKE_S, LIFE_S, Histogram
from lb.metrics import FORGET_AFTER_S, Metrics, NodeCounts, Totals
from lb.pool import Pool
from lb.reports import STALE_S, Reports, Stack, Worker
from lb.tls import InUse
from tests.support.descriptors import no_descriptor_left
from tests.support.waiting import eventually


def record(name: str, port: int = 3000, **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "incarnation": "a"} | facts
    return NodeRecord(name=name, port=port, **values)  # type: ignore[arg-type]


class TestCounters:
    """What the data path calls."""

    @pytest.mark.parametrize(
        ("status", "place"), [(101, 0), (200, 1), (299, 1), (304, 2), (404, 3), (599, 4), (600, 4), (99, 4), (0, 4)]
    )
    def test_exchanges_count_by_class_of_status(self, status: int, place: int) -> None:
        """A status that HTTP does not have is the node's fault."""
        metrics = Metrics()
        metrics.exchange_done("n1", status)
        assert metrics.totals.nodes["n1"].exchanges == [int(each == place) for each in range(5)]

    def test_tunnels_count_while_open_and_their_bytes_when_closed(self) -> None:
        """Both ways, and how long they lasted."""
        metrics = Metrics()
        metrics.tunnel_opened("n1", 0.003)
        metrics.tunnel_opened("n1", 0.003)
        metrics.tunnel_closed("n1", 2.5, 10, 20)
        assert metrics.totals.nodes["n1"] == NodeCounts(
            tunnels=2,
            tunnels_open=1,
            bytes_from_client=10,
            bytes_from_node=20,
            tunnel_handshakes=histogram(HANDSHAKE_S, 0.003, 0.003),
            tunnel_life=histogram(LIFE_S, 2.5),
        )

    def test_handovers_count_while_open(self) -> None:
        """How long the handshake took, and how long they lasted."""
        metrics = Metrics()
        metrics.handed_over("n1", 0.0004)
        metrics.handed_over("n1", 7.0)
        metrics.handed_over_closed("n1", 90_000.0, 1000)
        assert metrics.totals.nodes["n1"] == NodeCounts(
            handoffs=2,
            handoffs_open=1,
            handoff_handshakes=histogram(HANDSHAKE_S, 0.0004, 7.0),
            handoff_life=histogram(LIFE_S, 90_000.0),
            closes={"1000": 1},
        )

    @pytest.mark.parametrize(
        ("code", "label"),
        [
            (1000, "1000"),
            (1006, "1006"),
            (1015, "1015"),
            (4008, "4008"),
            (4401, "4401"),
            (999, "other"),
            (1016, "other"),
            (4000, "other"),
            (65535, "other"),
            (0, "unknown"),
        ],
    )
    def test_close_codes_have_few_labels(self, code: int, label: str) -> None:
        """Clients may close with thousands of them."""
        metrics = Metrics()
        for _ in range(2):
            metrics.handed_over("n1", 0.0004)
            metrics.handed_over_closed("n1", 1.0, code)
        assert metrics.totals.nodes["n1"].closes == {label: 2}

    def test_what_goes_on_unheard_of_has_no_close_code(self) -> None:
        """It is not known to have ended."""
        metrics = Metrics()
        metrics.handed_over("n1", 0.0004)
        metrics.handed_over_closed("n1", 1.0, None)
        assert metrics.totals.nodes["n1"].closes == {}

    def test_answers_count_by_how_long_they_took(self) -> None:
        """Whatever their status."""
        metrics = Metrics()
        metrics.answered("n1", 0.02)
        assert metrics.totals.nodes["n1"] == NodeCounts(answers=histogram(ANSWER_S, 0.02))

    def test_failures_and_rejections_count(self) -> None:
        """By node, and by reason."""
        metrics = Metrics()
        metrics.connect_failed("n1")
        metrics.rejected("no_node")
        metrics.rejected("no_node")
        assert metrics.totals.nodes["n1"].connect_failures == 1
        assert metrics.totals.rejected == {"no_node": 2}

    def test_what_was_counted_under_a_former_name_moves_to_the_name(self) -> None:
        """A tunnel opened as `h:1` and closed as `n1` is closed."""
        metrics, pool = Metrics(), Pool(lambda: 0.0)
        node = pool.add_static("h", 1)
        metrics.tunnel_opened("h:1", 0.003)
        metrics.exchange_done("h:1", 200)
        pool.rename(node, "n1")
        metrics.exchange_done("n1", 200)
        metrics.tunnel_closed("n1", 1.0, 1, 1)
        metrics.settle(pool, 0.0)
        assert metrics.totals.nodes == {
            "n1": NodeCounts(
                [0, 2, 0, 0, 0],
                tunnels=1,
                bytes_from_client=1,
                bytes_from_node=1,
                tunnel_handshakes=histogram(HANDSHAKE_S, 0.003),
                tunnel_life=histogram(LIFE_S, 1.0),
            )
        }

    def test_a_node_that_is_long_gone_is_forgotten_but_not_with_open_tunnels(self) -> None:
        """Where containers come and go, names would pile up without end."""
        metrics, pool = Metrics(), Pool(lambda: 0.0)
        pool.add_static("h", 1, "here")
        for name in ("here", "gone", "returns"):
            metrics.exchange_done(name, 200)
        metrics.tunnel_opened("carried", 0.003)
        metrics.settle(pool, 0.0)
        pool.seen([record("returns")])
        metrics.settle(pool, FORGET_AFTER_S - 1)
        assert sorted(metrics.totals.nodes) == ["carried", "gone", "here", "returns"]
        pool.seen([])
        metrics.settle(pool, FORGET_AFTER_S)
        assert sorted(metrics.totals.nodes) == ["carried", "here", "returns"]
        metrics.tunnel_closed("carried", 1.0, 1, 1)
        metrics.settle(pool, 2 * FORGET_AFTER_S - 1)
        assert sorted(metrics.totals.nodes) == ["carried", "here", "returns"]
        metrics.settle(pool, 3 * FORGET_AFTER_S)
        assert sorted(metrics.totals.nodes) == ["here"]


def histogram(bounds: tuple[float, ...], *values: float) -> Histogram:
    counted = Histogram(bounds)
    for value in values:
        counted.add(value)
    return counted


COUNTS = st.builds(
    NodeCounts,
    exchanges=st.lists(st.integers(0, 10**12), min_size=5, max_size=5),
    connect_failures=st.integers(0, 10**12),
    tunnels=st.integers(0, 10**12),
    tunnels_open=st.integers(0, 10**6),
    tunnel_life=st.lists(st.integers(0, 10**6)).map(lambda lives: histogram(LIFE_S, *map(float, lives))),
    bytes_from_client=st.integers(0, 2**60),
    bytes_from_node=st.integers(0, 2**60),
)
TOTALS = st.builds(
    Totals, st.dictionaries(st.sampled_from("abc"), COUNTS), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 99))
)


class TestTotals:
    """Sums that travel as JSON."""

    @given(TOTALS)
    def test_they_survive_the_way_through_json(self, totals: Totals) -> None:
        """What a neighbour reads is what was written."""
        assert Totals.from_dict(json.loads(json.dumps(totals.to_dict()))) == totals

    @given(TOTALS, TOTALS)
    def test_a_sum_does_not_depend_on_the_order_and_changes_no_summand(self, one: Totals, two: Totals) -> None:
        """Workers are equal."""
        before = json.dumps(two.to_dict())
        left, right = Totals(), Totals()
        left += one
        left += two
        right += two
        right += one
        assert left == right
        assert json.dumps(two.to_dict()) == before

    @pytest.mark.parametrize(
        "raw",
        [
            {},
            {"nodes": {"a": {}}, "rejected": {}},
            {"nodes": {"a": NodeCounts().to_dict() | {"exchanges": [1]}}, "rejected": {}},
            {"nodes": [], "rejected": {"x": "many"}},
        ],
    )
    def test_what_another_version_wrote_is_refused(self, raw: dict[str, object]) -> None:
        """With one of three errors, which the reader of reports expects."""
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
            Totals.from_dict(raw)


@contextmanager
def dead_pid() -> Iterator[int]:
    """Give the pid of a process that is no more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    yield ended.pid


def a_report(run_dir: RunDir, index: int, pid: int, totals: Totals, at: float | None = None) -> str:
    worker = {"index": index, "pid": pid, "at": time.monotonic() if at is None else at, "memory_bytes": 5}
    name = f"worker-{index}-{pid}"
    run_dir.publish(name, {"worker": worker, "totals": totals.to_dict()})
    return name


def some(exchanges: int, tunnels_open: int = 0) -> Totals:
    return Totals({"n1": NodeCounts([0, exchanges, 0, 0, 0], tunnels_open=tunnels_open)}, {"no_node": 1})


class TestReports:
    """Workers of one stack."""

    def reports(self, path: Path, index: int = 0) -> tuple[Reports, Metrics, Pool]:
        metrics, pool = Metrics(), Pool(time.monotonic)
        pool.add_static("127.0.0.1", 3000, "n1")
        return Reports(RunDir(path), index, metrics, pool), metrics, pool

    def test_a_worker_alone_shows_its_own_numbers_as_of_now(self, tmp_path: Path) -> None:
        """Not those of its last report."""
        reports, metrics, _ = self.reports(tmp_path)
        reports.publish()
        metrics.exchange_done("n1", 200)
        stack = reports.stack()
        assert stack.totals == Totals({"n1": NodeCounts([0, 1, 0, 0, 0])})
        [worker] = stack.workers
        assert (worker.index, worker.pid) == (0, os.getpid())
        assert worker.memory_bytes > 1_000_000
        assert worker.cpu_seconds > 0

    def test_a_worker_out_of_descriptors_goes_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A report that cannot be written is told once, and written again when it can be."""
        reports, metrics, _ = self.reports(tmp_path)
        with no_descriptor_left():
            reports.publish()
            reports.publish()
        assert [record.getMessage() for record in caplog.records] == ["report not written"]
        metrics.exchange_done("n1", 200)
        reports.publish()
        assert RunDir(tmp_path).report(reports.name) is not None

    def test_live_neighbours_are_added(self, tmp_path: Path) -> None:
        """Counters and open tunnels; each worker is listed."""
        reports, metrics, _ = self.reports(tmp_path)
        metrics.exchange_done("n1", 200)
        a_report(RunDir(tmp_path), 1, os.getppid(), some(10, tunnels_open=2))
        stack = reports.stack()
        assert stack.totals.nodes["n1"] == NodeCounts([0, 11, 0, 0, 0], tunnels_open=2)
        assert stack.totals.rejected == {"no_node": 1}
        assert [worker.index for worker in stack.workers] == [0, 1]

    def test_of_a_dead_neighbour_only_what_it_carried_counts(self, tmp_path: Path) -> None:
        """Its tunnels are gone with it; counters of a stack never go down, or rates would jump."""
        reports, _, _ = self.reports(tmp_path)
        with dead_pid() as pid:
            a_report(RunDir(tmp_path), 1, pid, some(10, tunnels_open=2))
            stack = reports.stack()
        assert stack.totals.nodes["n1"] == NodeCounts([0, 10, 0, 0, 0], tunnels_open=0)
        assert [worker.index for worker in stack.workers] == [0]

    def test_a_neighbour_that_fell_silent_counts_as_dead(self, tmp_path: Path) -> None:
        """It hangs, or its pid belongs to somebody else by now."""
        reports, _, _ = self.reports(tmp_path)
        a_report(RunDir(tmp_path), 1, os.getppid(), some(10, tunnels_open=2), at=time.monotonic() - STALE_S)
        stack = reports.stack()
        assert stack.totals.nodes["n1"].tunnels_open == 0
        assert len(stack.workers) == 1

    def test_a_report_of_another_version_is_left_out(self, tmp_path: Path) -> None:
        """While the stack is being upgraded under us."""
        reports, _, _ = self.reports(tmp_path)
        others: list[dict[str, object]] = [{}, {"worker": {"new": 1}, "totals": {}}, {"worker": 5, "totals": 5}]
        others.append({"worker": {"index": 1, "pid": 1, "at": 0.0}, "totals": {"nodes": [], "rejected": {}}})
        for number, raw in enumerate(others):
            RunDir(tmp_path).publish(f"worker-{number}-1", raw)
        assert reports.stack().totals == Totals()

    def test_a_successor_counts_on_and_tidies_up(self, tmp_path: Path) -> None:
        """The files of its dead predecessors go; those of other workers, and of one that still drains, stay."""
        run_dir = RunDir(tmp_path)
        with dead_pid() as pid:
            mine, other = a_report(run_dir, 0, pid, some(10, 2)), a_report(run_dir, 1, pid, some(5))
            draining = a_report(run_dir, 0, os.getppid(), some(7, 1))

            async def main() -> None:
                reports, metrics, _ = self.reports(tmp_path)
                task = asyncio.create_task(reports.run())
                await eventually(lambda: run_dir.report(reports.name))
                assert metrics.totals.nodes["n1"] == NodeCounts([0, 10, 0, 0, 0])
                assert set(run_dir.reports("worker-")) == {reports.name, other, draining}
                assert mine not in run_dir.reports("worker-")
                total = reports.stack().totals.nodes["n1"]
                assert total == NodeCounts([0, 22, 0, 0, 0], tunnels_open=1)
                metrics.exchange_done("n1", 200)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                # The last report has what came after the one before.
                last = run_dir.report(reports.name)
                assert last is not None
                assert last["totals"]["nodes"]["n1"]["exchanges"] == [0, 11, 0, 0, 0]

            asyncio.run(main())

    def test_a_successor_leaves_what_it_cannot_read(self, tmp_path: Path) -> None:
        """A report of its index from another version: nothing of it can be counted on."""
        run_dir = RunDir(tmp_path)
        run_dir.publish("worker-0-1", {"worker": {"version": 2}})

        async def main() -> None:
            reports, metrics, _ = self.reports(tmp_path)
            task = asyncio.create_task(reports.run())
            await eventually(lambda: run_dir.report(reports.name))
            assert metrics.totals == Totals()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(main())

    def test_a_report_is_written_each_second(self, tmp_path: Path) -> None:
        """Neighbours are at most that much behind."""

        async def main() -> None:
            reports, metrics, _ = self.reports(tmp_path)
            task = asyncio.create_task(reports.run())
            await eventually(lambda: RunDir(tmp_path).report(reports.name))
            metrics.rejected("no_node")
            await eventually(
                lambda: (RunDir(tmp_path).report(reports.name) or {})["totals"]["rejected"] == {"no_node": 1},
            )
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(main())

    def test_a_full_disk_is_said_once_and_ends_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Here: the directory is gone.  When it is back, so is the report."""
        gone = tmp_path / "run"
        reports, _, _ = self.reports(gone)
        with caplog.at_level(logging.WARNING):
            reports.publish()
            reports.publish()
            gone.mkdir()
            reports.publish()
            assert RunDir(gone).report(reports.name)
        assert [entry.getMessage() for entry in caplog.records] == ["report not written"]


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Parse Prometheus' text as Prometheus does."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class TestExposition:
    """What /metrics says."""

    def test_every_number_has_its_name_and_unit(self) -> None:
        """One node that says much of itself, one that says nothing."""
        pool = Pool(lambda: 0.0)
        load = {"memory_bytes": 1024, "cpu_percent": 50.0, "loop_lag_ms": 2.0, "uptime_s": 9.0}
        crowd = {"connections": 4, "users": 3, "messages_in": 5, "messages_out": 6}
        pool.seen([dataclasses.replace(record("n1", pid=7, version="1"), **load, **crowd)])  # type: ignore[arg-type]
        pool.signal(pool.nodes["n1"], Signal.RISE, "answers its probes")
        pool.add_static("10.0.0.5", 80)
        counts = NodeCounts([0, 1, 2, 3, 4], 5, 6, 7, 9, 10, handoffs=11, handoffs_open=12)
        counts.answers.add(0.02)
        counts.tunnel_handshakes.add(0.3)
        counts.handoff_handshakes.add(0.0002)
        counts.tunnel_life.add(8.0)
        counts.handoff_life.add(13.0)
        stack = Stack(Totals({"n1": counts}, {"no_node": 2}), [Worker(index=0, pid=11, at=0.0, cpu_seconds=1.5)])
        found = samples(exposition(pool, stack, "ok"))

        def value(name: str, **labels: str) -> float:
            return found[name, frozenset(labels.items())]

        assert value("flotilla_node_state", node="n1", state="ready") == 1
        assert value("flotilla_node_state", node="n1", state="down") == 0
        assert value("flotilla_node_state", node="10.0.0.5:80", state="joining") == 1
        assert value("flotilla_node_connections", node="n1") == 4
        assert value("flotilla_node_users", node="n1") == 3
        assert value("flotilla_node_memory_bytes", node="n1") == 1024
        assert value("flotilla_node_cpu_ratio", node="n1") == 0.5
        assert value("flotilla_node_loop_lag_seconds", node="n1") == 0.002
        assert value("flotilla_node_uptime_seconds", node="n1") == 9
        assert value("flotilla_node_messages_total", node="n1", direction="in") == 5
        assert value("flotilla_node_messages_total", node="n1", direction="out") == 6
        facts = {"host": "127.0.0.1", "port": "3000", "path": "tunnel", "version": "1", "incarnation": "a", "pid": "7"}
        assert value("flotilla_node_info", node="n1", **facts) == 1
        assert value("flotilla_node_info", node="10.0.0.5:80", host="10.0.0.5", port="80", path="tunnel") == 1
        assert value("flotilla_exchanges_total", node="n1", **{"class": "4xx"}) == 3
        assert value("flotilla_connect_failures_total", node="n1") == 5
        assert value("flotilla_tunnels_total", node="n1") == 6
        assert value("flotilla_tunnels_open", node="n1") == 7
        assert value("flotilla_tunnel_seconds_sum", node="n1") == 8
        assert value("flotilla_tunnel_seconds_bucket", node="n1", le="5") == 0
        assert value("flotilla_tunnel_seconds_bucket", node="n1", le="15") == 1
        assert value("flotilla_answer_seconds_bucket", node="n1", le="+Inf") == 1
        assert value("flotilla_handshake_seconds_bucket", node="n1", path="handoff", le="0.00025") == 1
        assert value("flotilla_handshake_seconds_bucket", node="n1", path="tunnel", le="0.25") == 0
        assert value("flotilla_handshake_seconds_count", node="n1", path="tunnel") == 1
        assert value("flotilla_handoffs_total", node="n1") == 11
        assert value("flotilla_handoffs_open", node="n1") == 12
        assert value("flotilla_handoff_seconds_sum", node="n1") == 13
        assert value("flotilla_tunnel_bytes_total", node="n1", direction="from_client") == 9
        assert value("flotilla_tunnel_bytes_total", node="n1", direction="from_node") == 10
        assert value("flotilla_rejected_total", reason="no_node") == 2
        assert value("flotilla_worker_cpu_seconds_total", worker="0", pid="11") == 1.5
        assert value("flotilla_redis_up") == 1
        assert not any(
            name.startswith("flotilla_node_users") and ("node", "10.0.0.5:80") in labels for name, labels in found
        )

    def test_a_balancer_without_redis_says_nothing_about_it(self) -> None:
        """Neither up nor down."""
        assert b"redis" not in exposition(Pool(lambda: 0.0), Stack(), "none")
        assert samples(exposition(Pool(lambda: 0.0), Stack(), "away"))["flotilla_redis_up", frozenset()] == 0

    def test_what_a_node_calls_itself_cannot_break_the_text(self) -> None:
        """Quotes, backslashes and newlines in a version are escaped."""
        pool = Pool(lambda: 0.0)
        pool.seen([record("n1", version='1"\\\n2')])
        found = samples(exposition(pool, Stack(), "ok"))
        assert any(("version", '1"\\\n2') in labels for _, labels in found)

    def test_every_metric_is_documented(self) -> None:
        """docs/metrics.md has each name, and none that is not there."""
        pool = Pool(lambda: 0.0)
        pool.seen([record("n1")])
        stack = Stack(Totals({"n1": NodeCounts(closes={"1000": 1})}, {"no_node": 1}), [Worker(index=0, pid=1, at=0.0)])
        stack.totals.tls["full"] = 1
        stack.workers = [Worker(index=0, pid=1, at=0.0, certificates=(InUse("tls.crt", 1.0, False, ()),))]
        names = {name for name, _ in samples(exposition(pool, stack, "ok", 0.001))}
        page = Path(__file__).parents[2].joinpath("docs", "metrics.md").read_text(encoding="utf-8")
        documented = {word.strip("`") for word in page.split() if word.startswith("`flotilla_")}
        assert documented == names
