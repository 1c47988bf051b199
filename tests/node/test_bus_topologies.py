"""The bus, and everything else that uses Redis, on each topology: messages cross, in order, also over a failover."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cluster.config import Config
from cluster.keys import Keys
from cluster.member import NodeRecord
from cluster.redis_link import REDIS_AWAY, connection
from cluster.registry import Registry
from cluster.secret import agree_on_secret
from node.bus import BusLimits
from node.wire import Emit
from tests.support.between import between
from tests.support.posts import Member, members
from tests.support.redises import redis_cluster, watched_by_sentinels
from tests.support.valkey import Valkey
from tests.support.waiting import eventually

PACE_S = 0.005
"""200 messages a second."""


async def cross(url: str) -> None:
    """Two members exchange messages in several rooms, in order."""
    async with members(url, url) as [one, two]:
        for room in range(20):
            assert await two.enter(f"room {room}")
        assert await one.enter("room 0")
        for number in range(200):
            one.say(number, f"room {number % 20}")
        two.say("back", "room 0")
        await eventually(lambda: len(two.heard) == 200 and one.heard == ["back"])
        for room in range(20):
            assert [text for text in two.heard if int(text) % 20 == room] == [*map(str, range(room, 200, 20))]


async def shares(url: str) -> None:
    """Registry, secret and notices, as nodes and balancers use them."""
    keys = Keys("test")
    assert Config(redis=url).redis == url
    async with connection(url) as link, connection(url, blocking=True) as hearing:
        secret = await agree_on_secret(Config(cluster="test"), link)
        assert await agree_on_secret(Config(cluster="test"), hearing) == secret
        registry = Registry(link, keys, secret)
        async with Registry(hearing, keys).changes() as changes:
            record = NodeRecord(name="n1", host="h", port=1, incarnation="i1")
            await registry.announce(record, 30, changed=True)
            async with asyncio.timeout(30):
                while (notice := await changes.get_message(timeout=1)) is None:
                    pass
            assert notice["data"] == b"n1"
        assert await registry.members() == [record]
        assert await registry.withdraw("n1", "i1")
        assert await registry.members() == []


def both(url: str) -> None:
    async def main() -> None:
        await shares(url)
        await cross(url)

    asyncio.run(main())


def test_over_tcp(valkey: Valkey) -> None:
    """The usual way, and another database."""
    both(valkey.url)
    both(f"redis://127.0.0.1:{valkey.port}/3?client_name=flotilla-1")


def test_over_a_unix_socket(valkey: Valkey) -> None:
    """The way to the embedded one; a path may hold what means something elsewhere."""
    path = valkey.directory / "v@x.sock"
    valkey.kill()
    valkey.start("--unixsocket", str(path))
    both(f"unix://{path}")
    both(f"unix://{path}?db=2")


def test_with_a_password_and_with_a_user_of_an_acl(valkey: Valkey) -> None:
    """One that may use the cluster's keys and channels, and nothing else."""
    rules = "~{test}:* resetchannels &{test}:* +@all -@admin -@dangerous -client"
    commands = f"ACL SETUSER ada on >p@ss/word {rules}".split()

    async def prepare() -> None:
        async with connection(valkey.url) as link:
            await link.execute_command(*commands)  # type: ignore[no-untyped-call]
            await link.config_set("requirepass", "hunter2")

    asyncio.run(prepare())
    both(f"redis://ada:p%40ss%2Fword@127.0.0.1:{valkey.port}/0")
    both(f"redis://:hunter2@127.0.0.1:{valkey.port}/0")


def test_a_wrong_password_is_a_reason_and_not_an_end(valkey: Valkey) -> None:
    """The bus goes on trying; whoever corrects it on the server need not restart the node."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            await link.config_set("requirepass", "hunter2")
        async with members(f"redis://:wrong@127.0.0.1:{valkey.port}", up=False) as [one]:
            await eventually(lambda: "WRONGPASS" in one.bus.reason or "invalid" in one.bus.reason)
            async with connection(f"redis://:hunter2@127.0.0.1:{valkey.port}") as link:
                await link.config_set("requirepass", "wrong")
            assert await one.bus.up(10)

    asyncio.run(main())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself: `cert.pem` and `key.pem`."""
    directory = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    more = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *files, *more], check=True, capture_output=True)
    return directory


def test_over_tls(valkey: Valkey, certificates: Path) -> None:
    """Ended by a proxy, as the embedded binary has no TLS.  A certificate that nobody vouches for is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")

    async def main() -> None:
        async with between(valkey.port, context) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}/0"
            trusting = f"{url}?ssl_ca_certs={certificates / 'cert.pem'}"
            await shares(trusting)
            await cross(trusting)
            await cross(f"{url}?ssl_cert_reqs=none")
            async with members(url, up=False) as [one]:
                await eventually(lambda: "certificate" in one.bus.reason.lower())

    asyncio.run(main())


async def talk(one: Member, stop: asyncio.Event) -> int:
    """Say numbers, 200 a second, until told to stop; return how many."""
    count = 0
    while not stop.is_set():
        one.say(count)
        count += 1
        await asyncio.sleep(PACE_S)
    return count


def has_heard(member: Member, count: int) -> bool:
    return len(member.heard) >= count


async def survive(url: str, fail: Callable[[], None]) -> None:
    """A server fails while a member talks: the others get every number, once, in order."""
    limits = BusLimits(canary_s=1, lease_s=5)
    async with members(url, url, url, limits=limits) as all_:
        one, *others = all_
        for member in others:
            assert await member.enter()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(talk(one, stop))
            await eventually(lambda: all(len(member.heard) > 50 for member in others))
            fail()
            await eventually(lambda: one.bus.figures().resent > 0, what="the failure is noticed")
            await eventually(lambda: one.bus.health == 0, within_s=30, what=f"the bus is back: {one.bus.reason}")
            before = len(others[0].heard)
            await eventually(lambda: len(others[0].heard) > before + 50)
            stop.set()
        count = talking.result()
        for member in others:
            await eventually(partial(has_heard, member, count), what="everything arrived")
            assert member.heard == [*map(str, range(count))]
        assert one.bus.dropped == 0


def test_through_sentinels_and_over_their_failover() -> None:
    """The master dies under load; the sentinels make the replica the master."""

    async def main() -> None:
        async with watched_by_sentinels() as watched:
            await shares(watched.url)
            await cross(watched.url)
            await survive(watched.url, watched.master.kill)
            await shares(watched.url)

    asyncio.run(main())


def test_a_master_that_was_replaced_while_it_lives_is_left(valkey: Valkey) -> None:
    """An operator fails over by hand: nobody dies, and everybody must move."""

    async def main() -> None:
        async with watched_by_sentinels() as watched:
            limits = BusLimits(canary_s=0.5, lease_s=2)
            async with members(watched.url, watched.url, limits=limits) as [one, two]:
                assert await two.enter()
                async with connection(f"redis://127.0.0.1:{watched.sentinels[0]}") as sentinel:
                    await sentinel.execute_command("SENTINEL", "FAILOVER", "chat")  # type: ignore[no-untyped-call]
                places = [lane.publisher for lane in one.bus.lanes] + [lane.subscriber for lane in two.bus.lanes]

                def moved() -> bool:
                    return all(place.server and place.server.server.port == watched.replica.port for place in places)

                await eventually(moved)
                assert await one.bus.up(10)
                assert await two.bus.up(10)
                one.say("after")
                await eventually(lambda: "after" in two.heard)

    asyncio.run(main())


def test_on_a_redis_cluster_and_over_its_failover() -> None:
    """Rooms are spread over three masters; one dies under load and its replica takes over."""

    async def main() -> None:
        async with redis_cluster() as cluster:
            await shares(cluster.url)
            await cross(cluster.url)
            owners = await owners_of(cluster.url)
            assert owners == {server.port for server in cluster.masters}
            await survive_in_cluster(cluster.url, cluster.masters[0].port, cluster.masters[0].kill)
            assert await owners_of(cluster.url) == {
                cluster.replica.port,
                *(server.port for server in cluster.masters[1:]),
            }

            async def again() -> bool:
                try:
                    await shares(cluster.url)
                except REDIS_AWAY as exc:
                    raise ConnectionError(str(exc)) from None
                return True

            await eventually(again)

    asyncio.run(main())


async def owners_of(url: str) -> set[int]:
    """Return the ports of the servers that a member is connected to."""
    async with members(url) as [one]:
        return {lane.publisher.server.server.port for lane in one.bus.lanes if lane.publisher.server}


async def survive_in_cluster(url: str, port: int, fail: Callable[[], None]) -> None:
    """As `survive`, in rooms on every partition."""
    rooms = [f"room {number}" for number in range(32)]
    limits = BusLimits(canary_s=1, lease_s=5)
    async with members(url, url, limits=limits) as [one, two]:
        for room in rooms:
            assert await two.enter(room)
        hit = {
            lane.partition
            for lane in one.bus.lanes
            if lane.publisher.server and lane.publisher.server.server.port == port
        }
        assert hit, "one of the partitions is on the server that fails"
        count = 0
        for _ in range(20):
            for room in rooms:
                one.say(f"{room}:{count}", room)
            count += 1
            if count == 5:
                fail()
            await asyncio.sleep(PACE_S)
        await eventually(lambda: len(two.heard) >= count * len(rooms), within_s=30, what="everything arrived")
        for room in rooms:
            assert [text for text in two.heard if text.startswith(f"{room}:")] == [f"{room}:{n}" for n in range(count)]


def test_a_message_to_rooms_on_several_partitions_arrives_once() -> None:
    """It is published in each; who listens in many takes the first."""

    async def main() -> None:
        async with redis_cluster() as cluster, members(cluster.url, cluster.url) as [one, two]:
            rooms = tuple(f"room {number}" for number in range(8))
            channels = [one.channels.room("/", room) for room in rooms]
            assert len({channel.partition for channel in channels}) > 2
            for room in rooms[1:]:
                assert await two.enter(room)
            for number in range(20):
                one.send_all(channels, Emit("/", rooms, str(number).encode()))
            one.say("last", rooms[-1])
            await eventually(lambda: "last" in two.heard and len(two.heard) >= 21)
            assert sorted(two.heard) == sorted([*map(str, range(20)), "last"])

    asyncio.run(main())
