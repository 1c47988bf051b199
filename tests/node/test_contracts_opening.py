"""Everything of aiohttp that is not public and that node/opening.py, node/channel.py and node/reader.py touch."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from aiohttp import web
from aiohttp._websocket import helpers
from aiohttp.web_protocol import RequestHandler

from node.channel import READ_BYTES, Channel, ChannelLimits
from tests.lb.conftest import Run
from tests.support.balancer import upgrade_request
from tests.support.websockets import Listener, connected_pair, masked


def test_masking_is_compiled_and_done_in_place() -> None:
    """`websocket_mask(mask: bytes, data: bytearray)`."""
    assert "cython" in type(helpers.websocket_mask).__name__ or "builtin" in type(helpers.websocket_mask).__name__
    for size in (0, 1, 3, 4, 7, 8, 9, 1000):
        data = bytearray(range(250)) * 4
        data = data[:size]
        expected = masked(bytes(data), b"\x01\x80\xff\x10")
        assert helpers.websocket_mask(b"\x01\x80\xff\x10", data) is None
        assert data == expected


@pytest.mark.parametrize("name", ["transport", "_message_tail", "_task_handler"])
def test_a_request_handler_has_the_attributes_that_we_set(run: Run, name: str) -> None:
    """As plain attributes."""

    async def main() -> None:
        handler = RequestHandler(web.Server(_nothing), loop=asyncio.get_running_loop())
        setattr(handler, name, getattr(handler, name))

    run(main)


async def _nothing(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("not called")


def test_a_request_handler_knows_that_http_is_over(run: Run) -> None:
    """`_upgraded` after a whole request that asks for a WebSocket; what follows is kept in `_message_tail`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for more, upgraded in ((b"", True), (b"Content-Length: 9\r\n", False)):
            handler = RequestHandler(web.Server(_nothing), loop=loop, tcp_keepalive=False)
            handler.connection_made(asyncio.Transport())
            handler.data_received(upgrade_request().replace(b"Host: test\r\n", b"Host: test\r\n" + more) + b"xyz")
            assert handler._upgraded is upgraded
            assert (handler._message_tail == b"xyz") is upgraded
            assert handler._task_handler is not None
            handler._task_handler.cancel()
            handler.transport = None
            handler.connection_lost(None)

    run(main)


def test_asyncio_reads_as_much_at_once_as_its_transport_says(run: Run) -> None:
    """`max_size`, where there is one; node/channel.py lowers it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, client = await connected_pair()
        channel = Channel(Listener(), ChannelLimits())
        transport, _ = await loop.connect_accepted_socket(lambda: channel, server)
        if isinstance(loop, asyncio.SelectorEventLoop):
            assert type(transport).max_size == 256 * 1024  # type: ignore[attr-defined]
            assert transport.max_size == READ_BYTES  # type: ignore[attr-defined]
            assert "recv(self.max_size)" in inspect.getsource(type(transport))
        else:
            assert not hasattr(transport, "max_size")
        channel.abort()
        client.close()

    run(main)


def test_the_end_of_a_connection_leaves_its_handler_to_go_on() -> None:
    """`connection_lost` touches the task only through `_task_handler`, and the transport only through `transport`."""
    source = inspect.getsource(RequestHandler.connection_lost)
    assert "self._task_handler.cancel()" in source
    assert "self.transport" not in source.replace("self.transport = None", "")
    closing = inspect.getsource(RequestHandler.force_close)
    assert "if self.transport is not None" in closing


def test_a_response_is_asked_to_prepare_and_to_end() -> None:
    """And nothing else that would write: `finish_response` and what it calls."""
    source = inspect.getsource(RequestHandler.finish_response)
    assert source.count("await prepare_meth(request)") == 1
    assert source.count("await resp.write_eof()") == 1
    assert "_parser is not None" in source, "which it is not after connection_lost"
