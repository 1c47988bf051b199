"""What the engine uses of aiohttp beyond its documentation, and what python-socketio asks of its `eio`."""

from __future__ import annotations

import asyncio
import inspect
import re

import engineio
from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from engineio.payload import Payload
from socketio import async_server, base_server

from cluster.tag import slot_of, tag_of
from node import Server
from node.engine import Engine
from node.polling import MOST_POLLED

HEAD = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def test_a_parser_gives_a_whole_request_and_what_came_behind_it() -> None:
    """`feed_data`: messages, whether another protocol follows, the rest; its protocol is not asked for anything."""

    async def main() -> None:
        options = {"max_line_size": 100, "max_field_size": 100, "max_headers": 10}
        parser = HttpRequestParser(object(), asyncio.get_running_loop(), 2**16, **options)  # type: ignore[arg-type]
        [(message, _)], is_upgraded, rest = parser.feed_data(HEAD + b"rest")
        assert (message.method, message.path, is_upgraded, rest) == ("GET", "/a?b=c", True, b"rest")
        assert message.headers["host"] == "h"
        again = HttpRequestParser(object(), asyncio.get_running_loop(), 2**16, **options)  # type: ignore[arg-type]
        messages, is_upgraded, rest = again.feed_data(HEAD[:-2])
        assert (len(messages), is_upgraded, rest) == (0, False, b""), "half a head is none"

    asyncio.run(main())


def test_a_request_can_be_made_of_a_message_without_a_connection() -> None:
    """`Request(message, payload, protocol, writer, task, loop)`; of the protocol it asks three attributes."""
    parameters = list(inspect.signature(web.Request.__init__).parameters)
    assert parameters[:2] == ["self", "args"] or "message" in parameters
    source = inspect.getsource(web.BaseRequest.__init__)
    assert set(re.findall(r"protocol\.(\w+)", source)) <= {"ssl_context", "peername", "sockname"}
    assert "remote" in inspect.signature(web.BaseRequest.__init__).parameters
    assert asyncio.run(EMPTY_PAYLOAD.read()) == b""


def test_the_python_client_gives_up_on_more_packets_than_we_send_at_once() -> None:
    """`Payload.max_decode_packets` of python-engineio."""
    assert Payload.max_decode_packets == MOST_POLLED


def test_everything_that_socketio_asks_of_its_engine_is_there() -> None:
    """`self.eio.<name>` in python-socketio's servers."""
    source = inspect.getsource(async_server) + inspect.getsource(base_server)
    asked = set(re.findall(r"\beio\.(\w+)", source)) - {"on"}
    engine = Engine()
    assert asked - {name for name in dir(engine) if not name.startswith("__")} == set()


def test_everything_public_of_python_engineios_server_is_there() -> None:
    """Applications use `sio.eio`."""
    theirs = {name for name in vars(engineio.AsyncServer) if not name.startswith("_")}
    theirs |= {name for name in vars(engineio.AsyncServer.__mro__[1]) if not name.startswith("_")}
    internal = {"compression_methods", "event_names", "valid_transports", "sequence_number", "async_modes"}
    assert theirs - set(dir(Engine)) - internal == set()


def test_socketio_sids_are_the_engines() -> None:
    """`pre_connect` of the client manager asks the engine for a sid."""
    engine = Server().eio
    assert "." not in engine.generate_id()
    engine.tag = tag_of("n3000", b"secret")
    assert slot_of(engine.generate_id(), b"secret") == "n3000"
