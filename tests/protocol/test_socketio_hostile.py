"""What the internet sends: every malformed or excessive packet has a defined outcome, and none is a traceback."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node import Server, admission, codec, dispatch
from tests.support.nodes import node_here
from tests.support.raw_socketio import RawClient, raw_client, talking_to
from tests.support.waiting import eventually


def echo_server(**options: Any) -> Server:
    sio = Server(**options)

    @sio.event
    async def echo(sid: str, data: object) -> object:
        return data

    return sio


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


CLOSES = [
    "",
    "x",
    "4",
    '4{"message":"I refuse you"}',
    "7[]",
    "0[]",
    "2{}",
    '2["disconnect","as if"]',
    '2["connect",{}]',
    "2" + "9" * 200 + "[]",
    "2" + "[" * 500_000,
    '2["x",' + "9" * 5000 + "]",
    "31{}",
    '51-["echo",{"_placeholder":true,"num":5}]',
    '51-["echo",{"_placeholder":true,"num":-1}]',
    f'5{codec.MOST_ATTACHMENTS + 1}-["echo"]',
    "5" + "9" * 500 + '-["echo"]',
    '51-["disconnect"]',
    "0/" + "n" * 2000,
]


@pytest.mark.parametrize("packet", CLOSES, ids=[packet[:40] for packet in CLOSES])
def test_what_is_no_packet_closes_its_own_connection_only(packet: str) -> None:
    """The rest of the node does not notice, and nothing of the client stays."""

    async def main() -> None:
        sio = echo_server()
        async with node_here(sio) as url, raw_client(url) as bystander, raw_client(url) as client:
            await bystander.connect()
            await client.connect()
            await client.say(packet)
            if packet.startswith("51-"):
                await client.say(b"attachment")
            assert await client.hear() is None
            await eventually(lambda: len(sio.manager.directory.spaces["/"].clients) == 1)
            assert await bystander.is_served()

    asyncio.run(main())


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        sio = echo_server(**options)
        async with talking_to(sio) as client:
            await client.connect()
            await test(sio, client)

    asyncio.run(main())


IGNORED = [
    '2["no such event"]',
    '21["no such event"]',
    '2["*"]',
    '2/elsewhere,["echo","x"]',
    "1/elsewhere,",
    "399[]",
    "30[]",
    "399999999999999999999[]",
    "3/elsewhere,1[]",
    '2["echo"]',
    '2["echo","too","many"]',
    '2["echo","x",{"_placeholder":true,"num":9}]',
]


@pytest.mark.parametrize("packet", IGNORED)
def test_what_means_nothing_here_is_ignored(packet: str) -> None:
    """Unknown events and namespaces, acknowledgements of nothing, arguments that a handler does not take."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.say(packet)
        assert await client.is_served()

    run(main)


def test_attachments_for_a_namespace_that_one_is_not_in_are_taken_and_dropped() -> None:
    """They must not be taken for something else."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.say('51-/elsewhere,["echo",{"_placeholder":true,"num":0}]', b"x")
        assert await client.is_served()

    run(main)


def test_an_attachment_that_nobody_announced_closes_the_connection() -> None:
    """And so does text in the place of one."""

    async def binary(sio: Server, client: RawClient) -> None:
        assert await client.ask(b"x") is None

    async def text(sio: Server, client: RawClient) -> None:
        assert await client.ask('51-["echo",{"_placeholder":true,"num":0}]', '2["echo","x"]') is None

    run(binary)
    run(text)


def test_the_attachments_of_a_packet_are_bounded_all_together() -> None:
    """Each may be as large as a message, and there may be many."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.say('5900-["echo",{"_placeholder":true,"num":0}]')
        for _ in range(dispatch.MOST_PARTIAL_MESSAGES):
            await client.say(b"x" * 9_000)
        assert (sio.eio.connections, sio.eio.max_http_buffer_size) == (1, 10_000)
        await client.say(b"x" * 9_000, b"x" * 9_000)
        assert await client.hear() is None

    run(main, max_http_buffer_size=10_000)


def test_a_packet_that_is_never_completed_goes_with_its_connection() -> None:
    """Nothing of it stays."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.say('52-["echo",{"_placeholder":true,"num":0}]', b"x")
        await client.close()
        await eventually(lambda: sio.eio.connections == 0)
        assert sio.manager.directory.spaces == {}

    run(main)


def test_a_client_may_be_in_so_many_namespaces() -> None:
    """Each costs memory; the connection lives on."""

    async def main(sio: Server, client: RawClient) -> None:
        for number in range(admission.MOST_NAMESPACES - 1):
            await client.connect(f"/n{number}")
        assert await client.ask("0/onemore,") == '4/onemore,{"message":"Too many namespaces"}'
        assert await client.is_served()

    run(main, namespaces="*")


def test_a_second_connect_to_the_same_namespace_is_refused() -> None:
    """The first is not disturbed."""

    async def main(sio: Server, client: RawClient) -> None:
        assert await client.ask("0") == '4{"message":"Already connected"}'
        assert await client.is_served()

    run(main)


def test_what_waits_for_a_connect_handler_is_bounded() -> None:
    """A client that sends on and on while its token is checked is closed."""

    async def main() -> None:
        sio = echo_server()
        decide = asyncio.Event()

        @sio.event
        async def connect(sid: str, environ: dict[str, Any]) -> None:
            await decide.wait()

        async with talking_to(sio) as client:
            await client.say("0", *['2["echo","x"]'] * (dispatch.MOST_WAITING + 1))
            assert await client.hear() is None
            decide.set()
            await eventually(lambda: not sio.manager.directory.spaces)

    asyncio.run(main())


def test_a_namespace_called_star_is_nobodys() -> None:
    """Handlers are registered under that name; a client does not get in by it.  Only msgpack could name it so."""
    msgpack = pytest.importorskip("msgpack")

    async def main() -> None:
        sio = Server(serializer="msgpack")
        sio.on("x", lambda *args: None, namespace="*")
        async with talking_to(sio) as client:
            assert await client.ask(msgpack.Packer().pack({"type": 0, "nsp": "*", "data": None})) is None

    asyncio.run(main())
