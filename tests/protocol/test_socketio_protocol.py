"""Socket.IO protocol, revision 5 (https://socket.io/docs/v4/socket-io-protocol/), paragraph by paragraph.

Each by a node's own port, handed over by a balancer, and through its tunnel.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import socketio

from node import Server
from tests.support.raw_socketio import RawClient, raw_client
from tests.support.waiting import eventually
from tests.support.ways import served


def app(**options: Any) -> Server:
    """Echoes, tells who came how, and has a namespace /custom."""
    sio = Server(**options)

    @sio.event
    async def connect(sid: str, environ: dict[str, Any], auth: object) -> None:
        await sio.emit("auth", auth or {}, to=sid)

    @sio.event
    async def echo(sid: str, *data: Any) -> Any:
        return data

    @sio.event
    async def back(sid: str, *data: Any) -> None:
        await sio.emit("back", data, to=sid)

    @sio.on("connect", namespace="/custom")
    async def connect_custom(sid: str, environ: dict[str, Any], auth: object) -> None:
        if auth == {"token": "wrong"}:
            raise socketio.exceptions.ConnectionRefusedError("Not authorized")
        await sio.emit("auth", auth or {}, to=sid, namespace="/custom")

    @sio.on("echo", namespace="/custom")
    def echo_custom(sid: str, *data: Any) -> Any:
        return data

    return sio


def run(way: str, test: Any) -> None:
    async def main() -> None:
        sio = app()
        async with served(way, sio) as url, raw_client(url) as client:
            await test(sio, client)

    asyncio.run(main())


def test_clients_come_by_the_way_that_is_tested(way: str) -> None:
    """Else all of this tests the same thing three times."""

    async def main(sio: Server, client: RawClient) -> None:
        [session] = sio.eio.sessions.values()
        assert session.channel is not None
        assert (session.channel.on_end is not None) == (way == "handoff")
        assert ("HTTP_X_FORWARDED_FOR" in session.environ) == (way != "direct")

    run(way, main)


# Connection to a namespace


def test_the_main_namespace_answers_with_a_sid_and_what_was_emitted_meanwhile_comes_after(way: str) -> None:
    """`The server MUST respond with … a CONNECT packet if the connection is successful, with the session ID`."""

    async def main(sio: Server, client: RawClient) -> None:
        answer = await client.ask("0")
        assert isinstance(answer, str)
        assert answer.startswith('0{"sid":"')
        assert list(json.loads(answer[1:])) == ["sid"]
        assert await client.hear() == '2["auth",{}]'

    run(way, main)


def test_a_custom_namespace_has_a_sid_of_its_own_on_the_same_connection(way: str) -> None:
    """`A client MAY be connected to multiple namespaces at the same time`."""

    async def main(sio: Server, client: RawClient) -> None:
        first = await client.connect()
        assert await client.hear() == '2["auth",{}]'
        second = await client.connect("/custom")
        assert await client.hear() == '2/custom,["auth",{}]'
        assert len({first, second, client.engine_sid}) == 3
        assert await client.ask('2/custom,1["echo","a"]') == '3/custom,1["a"]'
        assert await client.ask('21["echo","b"]') == '31["b"]'

    run(way, main)


def test_a_custom_namespace_needs_no_main_one(way: str) -> None:
    """Revision 5 removed the implicit connection to it."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect("/custom", '{"token":"abc"}')
        assert await client.hear() == '2/custom,["auth",{"token":"abc"}]'

    run(way, main)


def test_authentication_reaches_the_connect_handler(way: str) -> None:
    """`With an additional payload`."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect("/", '{"token":"123"}')
        assert await client.hear() == '2["auth",{"token":"123"}]'

    run(way, main)


def test_a_refused_connection_gets_an_object_with_a_message(way: str) -> None:
    """`Or a CONNECT_ERROR packet if the connection is not allowed`; the session may try again."""

    async def main(sio: Server, client: RawClient) -> None:
        assert await client.ask('0/custom,{"token":"wrong"}') == '4/custom,{"message":"Not authorized"}'
        assert await client.ask("0/random") == '4/random,{"message":"Invalid namespace"}'
        await client.connect("/custom")

    run(way, main)


def test_a_packet_before_the_first_connect_closes_the_connection(way: str) -> None:
    """`If the server does not receive a CONNECT packet first, then it MUST close the connection immediately`."""
    for packet in ('2["echo","x"]', "31[]", "1", '51-["echo",{"_placeholder":true,"num":0}]'):

        async def main(sio: Server, client: RawClient, packet: str = packet) -> None:
            await client.say(packet)
            if packet[0] == "5":
                await client.say(b"attachment")
            assert await client.hear() is None

        run(way, main)


def test_a_client_that_never_connects_is_closed(way: str) -> None:
    """After `connect_timeout`, as socket.io's own server does; one that did is not."""

    async def main() -> None:
        async with served(way, app(), connect_timeout_s=0.2) as url, raw_client(url) as connected:
            await connected.connect()
            await connected.hear()
            async with raw_client(url) as idle:
                assert await idle.hear() is None
            assert await connected.is_served()

    asyncio.run(main())


def test_a_client_that_was_refused_or_left_is_closed_too_in_time(way: str) -> None:
    """It holds a connection without any use of it."""

    async def main() -> None:
        async with served(way, app(connect_timeout=0.2)) as url:
            async with raw_client(url) as refused:
                assert await refused.ask("0/random") == '4/random,{"message":"Invalid namespace"}'
                assert await refused.hear() is None
            async with raw_client(url) as leaving:
                await leaving.connect("/custom")
                await leaving.hear()
                await leaving.say("1/custom,")
                assert await leaving.hear() is None

    asyncio.run(main())


# Sending and receiving data


def test_data_of_every_json_type_goes_both_ways(way: str) -> None:
    """`Once the connection to a namespace is established, the client and the server can begin exchanging data`."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect()
        await client.hear()
        assert await client.ask('2["back",1,"2",{"3":[true,null,4.5]}]') == '2["back",1,"2",{"3":[true,null,4.5]}]'
        assert await client.ask('2["back"]') == '2["back"]'

    run(way, main)


def test_binary_data_goes_both_ways(way: str) -> None:
    """The attachments follow their packet, in order."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect()
        await client.hear()
        packet = '52-["back",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]}]'
        await client.say(packet, b"\1\2", b"\3")
        assert [await client.hear() for _ in range(3)] == [packet, b"\1\2", b"\3"]

    run(way, main)


def test_an_empty_or_missing_payload_closes_the_connection(way: str) -> None:
    """`The payload is mandatory and MUST be a non-empty array. If that's not the case, … MUST close the connection`."""
    for packet in ("2", "2[]", "2{}", '2"x"', "2[1]"):

        async def main(sio: Server, client: RawClient, packet: str = packet) -> None:
            await client.connect()
            await client.hear()
            assert await client.ask(packet) is None

        run(way, main)


# Acknowledgement


def test_an_event_with_an_id_is_acknowledged_with_the_same(way: str) -> None:
    """`The receiver MUST respond with an ACK packet with the same event ID`; also 0, and binary."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect()
        await client.hear()
        assert await client.ask('212["echo","bar"]') == '312["bar"]'
        assert await client.ask('20["echo"]') == "30[]"
        assert await client.ask('21["echo",1,[2]]') == "31[1,[2]]"
        await client.say('51-7["echo",{"_placeholder":true,"num":0}]', b"\1")
        assert [await client.hear(), await client.hear()] == ['61-7[{"_placeholder":true,"num":0}]', b"\1"]

    run(way, main)


def test_the_server_can_ask_too(way: str) -> None:
    """EVENT with an id from the server, ACK and BINARY_ACK from the client."""

    async def main(sio: Server, client: RawClient) -> None:
        sid = await client.connect()
        await client.hear()
        answer = asyncio.ensure_future(sio.call("question", "?", to=sid))
        assert await client.hear() == '21["question","?"]'
        await client.say('31["yes"]')
        assert await answer == "yes"
        answer = asyncio.ensure_future(sio.call("question", b"?", to=sid))
        assert await client.hear() == '51-2["question",{"_placeholder":true,"num":0}]'
        assert await client.hear() == b"?"
        await client.say('61-2["yes",{"_placeholder":true,"num":0}]', b"\1")
        assert await answer == ("yes", b"\1")

    run(way, main)


# Disconnection from a namespace


def test_leaving_one_namespace_leaves_the_others_alone(way: str) -> None:
    """`The low-level connection MAY be kept alive if the client is connected to another namespace`."""

    async def main(sio: Server, client: RawClient) -> None:
        await client.connect()
        await client.hear()
        sid = await client.connect("/custom")
        await client.hear()
        await client.say("1/custom,")
        await eventually(lambda: not sio.manager.is_connected(sid, "/custom"))
        assert await client.is_served()
        assert await client.connect("/custom") != sid

    run(way, main)


def test_the_server_can_end_it(way: str) -> None:
    """One DISCONNECT packet; nothing is expected from the client.  What was emitted before arrives before."""

    async def main(sio: Server, client: RawClient) -> None:
        sid = await client.connect("/custom")
        await client.hear()
        await sio.emit("last words", to=sid, namespace="/custom")
        await sio.disconnect(sid, namespace="/custom")
        assert [await client.hear(), await client.hear()] == ['2/custom,["last words"]', "1/custom,"]
        await client.connect()

    run(way, main)


def test_the_end_of_the_connection_ends_every_namespace(way: str) -> None:
    """Each gets its disconnect handler, once."""

    async def main() -> None:
        sio = app()
        ended: list[tuple[str, str]] = []
        sio.on("disconnect", lambda sid, reason: ended.append(("/", reason)))
        sio.on("disconnect", lambda sid, reason: ended.append(("/custom", reason)), namespace="/custom")
        async with served(way, sio) as url, raw_client(url) as client:
            await client.connect()
            await client.hear()
            await client.connect("/custom")
            await client.close()
            await eventually(lambda: len(ended) == 2)
            assert ended == [("/", "transport close"), ("/custom", "transport close")]
            assert not list(sio.manager.get_namespaces())

    asyncio.run(main())


# Sample session


def test_the_sample_session_over_polls(way: str) -> None:
    """Requests 1 to 5 of the page, with what is in each."""

    async def main() -> None:
        sio = app()
        async with served(way, sio) as url, aiohttp.ClientSession() as http:
            address = f"{url}/socket.io/?EIO=4&transport=polling"

            async def get(more: str = "") -> str:
                async with http.get(address + more) as answer:
                    assert answer.status == 200
                    return await answer.text()

            opened = await get()
            assert opened.startswith("0{")
            sid = json.loads(opened[1:])["sid"]
            async with http.post(f"{address}&sid={sid}", data="40") as answer:
                assert await answer.text() == "ok"
            # In one answer or in two: that depends on when the poll comes.
            heard = (await get(f"&sid={sid}")).split("\x1e")
            heard += [] if len(heard) == 2 else [await get(f"&sid={sid}")]
            assert heard[0].startswith('40{"sid":"')
            assert heard[1:] == ['42["auth",{}]']
            async with http.post(f"{address}&sid={sid}", data='42["back","hello"]\x1e421["echo","world"]') as answer:
                assert await answer.text() == "ok"
            heard = []
            while len(heard) < 2:
                heard += (await get(f"&sid={sid}")).split("\x1e")
            assert heard == ['42["back","hello"]', '431["world"]']

    asyncio.run(main())
