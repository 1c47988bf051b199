"""Everything of aiohttp that is not public and that the balancer touches.  A version that moves one fails here.

Where: lb/downstream.py (RequestHandler), lb/link.py (ResponseHandler), lb/exchange.py (what a response is asked).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest
from aiohttp import ClientError, http_exceptions, streams, web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_parser import SINGLETON_HEADERS, HttpRequestParser
from aiohttp.web import BaseRequest, RequestHandler, RequestPayloadError

from lb.downstream import TOO_MANY_HEADERS
from lb.exchange import Sent
from lb.plain import read_upgrade, request_fields
from tests.lb.conftest import Run


async def _nothing(request: BaseRequest) -> web.StreamResponse:
    raise AssertionError("not called")


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.reading = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """What a parser asks for, and does not use here."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def handler() -> RequestHandler:
    return RequestHandler(web.Server(_nothing), loop=asyncio.get_running_loop(), tcp_keepalive=False)


@pytest.mark.parametrize(
    "name",
    [
        "_buffer_paused",
        "_force_close",
        "_keepalive_handle",
        "_lingering_time",
        "_message_tail",
        "_messages",
        "_parser",
        "_request_count",
        "_request_in_progress",
        "_task_handler",
        "_upgraded",
        "transport",
    ],
)
def test_a_request_handler_has_the_attributes_that_we_touch(run: Run, name: str) -> None:
    """As plain attributes that may be set: they decide what becomes of a connection that is taken away."""

    async def main() -> None:
        request_handler = handler()
        setattr(request_handler, name, getattr(request_handler, name))

    run(main)


def test_a_request_handler_has_the_methods_that_we_override_or_call() -> None:
    """With the signatures that ours have."""
    for name, parameters in {
        "_process_keepalive": ["self"],
        "_resume_reading_if_drained": ["self"],
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "force_close": ["self"],
        "handle_error": ["self", "request", "status", "exc", "message"],
    }.items():
        assert list(inspect.signature(getattr(RequestHandler, name)).parameters) == parameters
    assert "_process_keepalive" in inspect.getsource(RequestHandler.start)


@pytest.mark.parametrize("fields", [20, 21])
def test_too_many_fields_are_told_in_these_words(run: Run, fields: int) -> None:
    """There is no exception of its own for it, so the text decides that it is a 431."""

    async def main() -> None:
        request_handler = RequestHandler(
            web.Server(_nothing), loop=asyncio.get_running_loop(), tcp_keepalive=False, max_headers=20
        )
        request_handler.connection_made(Wire())
        request_handler.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * (fields - 1) + b"\r\n")
        message = request_handler._messages[-1][0]
        assert (getattr(message, "message", "") == TOO_MANY_HEADERS) is (fields > 20)
        request_handler.connection_lost(None)

    run(main)


def test_heads_are_counted_and_queued_with_their_bodies(run: Run) -> None:
    """`_request_count` tells that a head is complete, `_messages[-1][1]` is its body, `is_eof` that this is."""

    async def main() -> None:
        request_handler = handler()
        request_handler.connection_made(Wire())
        request_handler.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Le")
        assert (request_handler._request_count, list(request_handler._messages)) == (0, [])
        request_handler.data_received(b"ngth: 2\r\n\r\na")
        body = request_handler._messages[-1][1]
        assert (request_handler._request_count, body.is_eof()) == (1, False)
        request_handler.data_received(b"b")
        assert body.is_eof()
        request_handler.connection_lost(None)

    run(main)


def test_a_broken_body_is_told_as_one_more_message_and_not_to_the_body(run: Run) -> None:
    """Which is why lb/downstream.py tells it.  If this fails, that is no longer needed."""

    async def main() -> None:
        request_handler = handler()
        request_handler.connection_made(Wire())
        request_handler.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        body = request_handler._messages[-1][1]
        request_handler.data_received(b"zz\r\n")
        assert isinstance(request_handler._messages[-1][0], web_protocol._ErrInfo)
        assert request_handler._request_count == 2
        assert body.exception() is None
        request_handler.connection_lost(None)

    run(main)


def test_a_request_without_a_body_has_the_one_empty_payload(run: Run) -> None:
    """`EMPTY_PAYLOAD` itself: nothing of what came was read as a body.  lb/upgrade.py hands over only such."""

    async def main() -> None:
        for more, is_empty in ((b"", True), (b"Content-Length: 0\r\n", True), (b"Content-Length: 1\r\n", False)):
            request_handler = handler()
            request_handler.connection_made(Wire())
            upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
            request_handler.data_received(b"GET / HTTP/1.1\r\nHost: h\r\n" + upgrade + more + b"\r\n")
            assert (request_handler._messages[-1][1] is streams.EMPTY_PAYLOAD) is is_empty
            assert request_handler._upgraded is is_empty, "what follows is kept aside only then"
            request_handler.connection_lost(None)

    run(main)


def test_what_follows_an_upgrade_is_kept_aside(run: Run) -> None:
    """In `_message_tail`, and only for a WebSocket."""

    async def main() -> None:
        request_handler = handler()
        request_handler.connection_made(Wire())
        request_handler.data_received(
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
        request_handler.data_received(b" bytes")
        assert (request_handler._upgraded, request_handler._message_tail) == (True, b"early bytes")
        request_handler.connection_lost(None)

    run(main)


def test_what_was_kept_aside_is_read_as_http_when_we_say_so(run: Run) -> None:
    """By a parser that has forgotten the upgrade, also where it was we who said that there is one."""

    async def main() -> None:
        for upgrade in (b"websocket", b"h2c, websocket"):
            request_handler = handler()
            request_handler.connection_made(Wire())
            request_handler.data_received(
                b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
            )
            request_handler._upgraded = True
            request_handler.data_received(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
            assert request_handler._message_tail.startswith(b"GET /next ")
            assert request_handler._parser is not None
            request_handler._parser.set_upgraded(False)
            request_handler._upgraded = False
            request_handler.data_received(request_handler._message_tail)
            assert [getattr(message, "path", "") for message, _ in request_handler._messages] == ["/", "/next"]
            request_handler.connection_lost(None)

    run(main)


@pytest.mark.parametrize("name", sorted(name.lower().encode() for name in SINGLETON_HEADERS))
def test_what_may_come_once_is_refused_twice(loop: asyncio.AbstractEventLoop, name: bytes) -> None:
    """The short way leaves such a request to it (lb/plain.py)."""
    fields = [b"Host: a", name + b": 1", name + b": 1"]
    with pytest.raises(http_exceptions.HttpProcessingError):
        HttpRequestParser(BaseProtocol(loop), loop, 2**16).feed_data(
            b"\r\n".join([b"GET / HTTP/1.1", *fields]) + b"\r\n\r\n"
        )
    assert request_fields(b"\r\n".join(fields)) is None
    upgrade = [b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket", *fields]
    assert read_upgrade(b"\r\n".join(upgrade) + b"\r\n\r\n") is None


def test_a_response_is_asked_for_three_names_only(run: Run) -> None:
    """`Sent` is no StreamResponse; the start of the next request must not depend on more than it has."""
    source = inspect.getsource(RequestHandler.start) + inspect.getsource(RequestHandler.finish_response)
    source += inspect.getsource(RequestHandler._handle_request)
    asked = {part.split("(")[0].split()[0].rstrip(",:)") for part in source.split("resp.")[1:]}
    assert asked == {"keep_alive", "prepare", "write_eof"} | {"status", "reason", "text", "headers"} & asked

    async def main() -> None:
        sent = Sent(keep_alive=True, status=200)
        request_handler = handler()
        request_handler.connection_made(Wire())
        request = BaseRequest(
            web_protocol.ERROR,
            streams.EMPTY_PAYLOAD,
            request_handler,
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            asyncio.get_running_loop(),
        )
        finished, reset = await request_handler.finish_response(request, sent, None)  # type: ignore[arg-type]
        assert finished is sent  # type: ignore[comparison-overlap]
        assert not reset
        request_handler.connection_lost(None)

    run(main)


def response_handler(wire: Wire) -> ResponseHandler:
    response = ResponseHandler(asyncio.get_running_loop())
    response.connection_made(wire)
    response.set_response_params(skip_payload=False, read_until_eof=True, auto_decompress=False, read_bufsize=65_536)
    return response


def test_a_response_handler_gives_every_head_with_its_body(run: Run) -> None:
    """Also a 1xx, and may serve again when the body is over."""

    async def main() -> None:
        response = response_handler(Wire())
        response.data_received(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-a: \xff\r\nContent-Length: 2\r\n\r\nok"
        )
        message, _ = await response.read()
        assert message.code == 100
        message, body = await response.read()
        assert isinstance(message, RawResponseMessage)
        assert (message.code, message.reason, message.raw_headers[0]) == (200, "OK", (b"X-a", b"\xff"))
        assert await body.readany() == b"ok"
        assert body.at_eof()
        assert response.is_connected()
        assert not response.should_close
        assert response.exception() is None

    run(main)


def test_a_response_handler_keeps_aside_what_follows_a_101(run: Run) -> None:
    """In `_tail`, where `Link.detach` finds it; `transport` and `_parser` may be taken away."""

    async def main() -> None:
        wire = Wire()
        response = response_handler(wire)
        response.data_received(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhel")
        response.data_received(b"lo")
        assert (await response.read())[0].code == 101
        assert (response._tail, response.transport) == (b"hello", wire)
        response.transport = response._parser = None
        response.abort()
        assert not wire.closed

    run(main)


def test_a_response_handler_tells_what_went_wrong(run: Run) -> None:
    """By exceptions that `Link.answer` knows; a reset stays readable in `exception()`."""

    async def main() -> None:
        response = response_handler(Wire())
        response.connection_lost(None)
        with pytest.raises(ClientError):
            await response.read()
        response = response_handler(Wire())
        response.data_received(b"nonsense\r\n\r\n")
        with pytest.raises(HttpProcessingError):
            await response.read()
        response = response_handler(Wire())
        response.data_received(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await response.read()
        response.connection_lost(ConnectionResetError(104, "reset"))
        assert isinstance(response.exception(), OSError)
        response = response_handler(Wire())
        response.data_received(b"HTTP/1.0 200 OK\r\n\r\nall")
        await response.read()
        response.connection_lost(None)
        assert not isinstance(response.exception(), OSError)

    run(main)


def test_a_response_handler_that_is_cut_leaves_its_reader_waiting(run: Run) -> None:
    """Which is why lb/upstream.py tells it.  If this fails, that is no longer needed."""

    async def main() -> None:
        response = response_handler(Wire())
        response.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        _, body = await response.read()
        response.abort()
        response.connection_lost(None)
        assert body.exception() is None
        assert not body.is_eof()

    run(main)


def test_a_response_handler_that_may_not_write_says_so(run: Run) -> None:
    """`_drain_helper` waits for `resume_writing`, and raises a ConnectionError when the connection is gone."""

    async def main() -> None:
        response = response_handler(Wire())
        await response._drain_helper()
        response.pause_writing()
        waiting = asyncio.ensure_future(response._drain_helper())
        await asyncio.sleep(0)
        assert not waiting.done()
        response.resume_writing()
        await waiting
        response.connection_lost(None)
        with pytest.raises(ConnectionError):
            await response._drain_helper()

    run(main)


def test_the_exceptions_are_what_we_take_them_for() -> None:
    """A client that is gone is told from a node that is gone by these."""
    from aiohttp import ClientConnectionResetError, ClientPayloadError

    assert issubclass(ClientConnectionResetError, ConnectionError)
    assert not issubclass(ClientPayloadError, ConnectionError)
    assert issubclass(http_exceptions.LineTooLong, http_exceptions.BadHttpMessage)
    assert issubclass(RequestPayloadError, Exception)
