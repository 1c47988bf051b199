"""lb/history.py: rates as the nodes' own clocks say, samples that do not pile up."""

from __future__ import annotations

import asyncio
import dataclasses

from cluster.member import NodeRecord
from lb.history import KEEP, History, Rates
from lb.pool import Pool
from tests.support.waiting import eventually


def said(name: str = "n1", **facts: object) -> NodeRecord:
    values: dict[str, object] = {"host": "127.0.0.1", "port": 3000, "incarnation": "a", "uptime_s": 10.0} | facts
    return NodeRecord(name=name, **values)  # type: ignore[arg-type]


def test_rates_are_over_the_time_between_two_records() -> None:
    """Whenever we looked in between, and however often."""
    pool = Pool(lambda: 0.0)
    history = History(pool)
    pool.seen([said(messages_in=100, messages_out=1000)])
    history.sample(1.0)
    assert history.rates("n1") == Rates(0.0, 0.0), "since when those came nobody knows"
    pool.seen([said(messages_in=110, messages_out=1500, uptime_s=12.0)])
    for at in (2.0, 2.1, 2.2):
        history.sample(at)
        assert history.rates("n1") == Rates(5.0, 250.0), "no news is no silence"
    pool.seen([said(messages_in=110, messages_out=1500, uptime_s=13.0)])
    history.sample(3.0)
    assert history.rates("n1") == Rates(0.0, 0.0)


def test_a_new_process_under_a_name_begins_at_zero() -> None:
    """Its counters are not those of the one before: no negative rate, no spike."""
    pool = Pool(lambda: 0.0)
    history = History(pool)
    pool.seen([said(messages_in=5000)])
    history.sample(1.0)
    pool.seen([said(messages_in=3, incarnation="b", uptime_s=0.5)])
    history.sample(2.0)
    assert history.rates("n1") == Rates(0.0, 0.0)


def test_a_node_that_went_has_no_rate() -> None:
    """Nor does one that never said anything."""
    pool = Pool(lambda: 0.0)
    history = History(pool)
    pool.add_static("127.0.0.1", 9, "plain")
    pool.seen([said(), said("n2", port=3001)])
    history.sample(1.0)
    pool.seen([said()])
    history.sample(2.0)
    assert (history.rates("n2"), history.rates("plain")) == (None, None)


def test_a_sample_is_the_sum_of_all_nodes() -> None:
    """Lag is that of the slowest; a node that does not count has those whom we carry to it."""
    pool = Pool(lambda: 0.0)
    history = History(pool)
    pool.add_static("127.0.0.1", 9, "plain").tunnels = 2
    first = said(connections=3, loop_lag_ms=1.5)
    second = said("n2", port=3001, connections=4, loop_lag_ms=7.5, messages_in=1, messages_out=2)
    pool.seen([first, second])
    history.sample(1.0)
    pool.seen([first, dataclasses.replace(second, messages_in=3, messages_out=8, uptime_s=11.0)])
    history.sample(2.0)
    sample = history.samples[-1]
    assert (sample.at, sample.connections, sample.loop_lag_ms) == (2.0, 9, 7.5)
    assert (sample.messages_in_per_s, sample.messages_out_per_s) == (2.0, 6.0)


def test_only_the_last_minutes_are_kept() -> None:
    """However long the worker runs."""
    history = History(())
    for at in range(KEEP + 7):
        history.sample(float(at))
    assert [history.samples[0].at, len(history.samples)] == [7.0, KEEP]


def test_it_takes_samples_by_itself() -> None:
    """The first one at once."""

    async def main() -> None:
        history = History(())
        running = asyncio.create_task(history.run())
        await eventually(lambda: history.samples)
        running.cancel()

    asyncio.run(main())
