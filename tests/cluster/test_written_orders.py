"""cluster/written_orders.py and cluster/orders.py: where a node reads whether it shall drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster import written_orders
from cluster.keys import Keys
from cluster.member import Drain
from cluster.orders import Orders
from cluster.redis_link import connection
from cluster.rundir import RunDir
from cluster.written_orders import REPORT, WrittenOrders
from node.draining import OrderBook
from tests.support.valkey import Valkey

ORDER = Drain(since=5.0, drain_s=60.0, close_per_s=10.0)
LATER = Drain(since=6.0, drain_s=0.0, close_per_s=1.0)

Write = Callable[[dict[str, Drain]], Awaitable[None]]


@asynccontextmanager
async def a_book(kind: str, valkey: Valkey, directory: Path) -> AsyncIterator[tuple[OrderBook, Write]]:
    """Give orders as a node reads them, and how to replace them all."""
    if kind == "written":
        written = WrittenOrders(RunDir(directory))

        async def write(orders: dict[str, Drain]) -> None:
            written.write(orders)

        yield written, write
        return
    async with connection(valkey.url) as link:
        in_redis = Orders(link, Keys("flotilla"))

        async def give(orders: dict[str, Drain]) -> None:
            for name in await in_redis.all() or {}:
                await in_redis.lift(name)
            for name, order in orders.items():
                await in_redis.give(name, order)

        yield in_redis, give


@pytest.mark.parametrize("kind", ["written", "redis"])
def test_a_node_reads_its_own_order_wherever_orders_are_kept(kind: str, valkey: Valkey, tmp_path: Path) -> None:
    """The last one given, none if it was taken back, and not that of another node."""

    async def main() -> None:
        async with a_book(kind, valkey, tmp_path) as (book, write):
            assert await book.of("n1") is None
            await write({"n1": ORDER, "n2": LATER})
            assert await book.of("n1") == ORDER
            assert await book.of("n3", ORDER) is None
            await write({"n1": LATER})
            assert await book.of("n1", ORDER) == LATER
            assert await book.of("n2", LATER) is None
            await write({})
            assert await book.of("n1", LATER) is None

    asyncio.run(main())


@pytest.mark.parametrize("text", ["{", "[]", '{"n1": 5}', '{"n1": "{}"}', '{"n1": "5"}'])
def test_what_cannot_be_read_changes_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """The order before stands until there is something to read again."""
    book = WrittenOrders(RunDir(tmp_path))
    (tmp_path / f"{REPORT}.json").write_text(text, encoding="utf-8")
    for _ in range(3):
        assert book.all() is None
        assert asyncio.run(book.of("n1", ORDER)) == ORDER
    assert [record.getMessage() for record in caplog.records] == ["orders not read"]
    book.write({})
    assert asyncio.run(book.of("n1", ORDER)) is None
    (tmp_path / f"{REPORT}.json").write_text(text, encoding="utf-8")
    assert book.all() is None
    assert len(caplog.records) == 2


def test_two_who_change_them_at_the_same_time_lose_none(tmp_path: Path) -> None:
    """Each reads what the other wrote before it writes."""

    async def change(number: int) -> None:
        book = WrittenOrders(RunDir(tmp_path))
        for turn in range(5):
            async with book.alone():
                orders = book.all()
                assert orders is not None
                await asyncio.sleep(0)
                book.write({**orders, f"n{number}-{turn}": ORDER})

    async def main() -> None:
        await asyncio.gather(*(change(number) for number in range(4)))

    asyncio.run(main())
    assert len(WrittenOrders(RunDir(tmp_path)).all() or {}) == 20


def test_somebody_who_hangs_while_it_changes_them_is_waited_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ordered then, and whoever ordered hears of it."""
    monkeypatch.setattr(written_orders, "PATIENCE_S", 0.1)

    async def main() -> None:
        async with WrittenOrders(RunDir(tmp_path)).alone():
            with pytest.raises(OSError, match="another process holds the lock"):
                await WrittenOrders(RunDir(tmp_path)).alone().__aenter__()

    asyncio.run(main())
