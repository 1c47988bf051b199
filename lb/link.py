"""A connection to a node as the long way uses it: aiohttp's parser reads what the node answers.

What is written, we write ourselves, so that the target and the headers of a request arrive as the client sent them.
`aiohttp.client_proto.ResponseHandler` is not public API: tests/lb/test_contracts_aiohttp.py names all that we expect
of it.
"""

from __future__ import annotations

import asyncio

from aiohttp import ClientError, ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from lb.errors import NodeFailed

READ_BUFFER_BYTES = 65_536
"""How much of a body waits here for the other side: at twice this we stop reading."""


class Link:
    """One connection to one node, for one exchange at a time."""

    __slots__ = ("_body", "_handler", "address", "fault", "keep", "reused")

    def __init__(
        self, transport: asyncio.Transport, address: tuple[str, int], *, reused: bool = False, is_full: bool = False
    ) -> None:
        """`is_full`: the transport has told the protocol before to write no more."""
        self._handler = ResponseHandler(asyncio.get_running_loop())
        if is_full:
            self._handler.pause_writing()
        self._handler.connection_made(transport)
        transport.set_protocol(self._handler)
        self._body: StreamReader = EMPTY_PAYLOAD
        self.address = address
        self.fault = ""
        """Why we gave it up, if we did."""
        self.reused = reused
        """Whether there was an exchange on it before."""
        self.keep = False
        """Whether it may be used again: set when an exchange ended as it should."""

    def resume(self, received: bytes) -> None:
        """Take what `received` holds for what the node has said to what we expect, and go on from there."""
        if received:
            self._handler.data_received(received)

    def lose(self, exc: Exception | None) -> None:
        """Take the connection for lost: its transport has told another protocol."""
        self._handler.connection_lost(exc)

    def expect(self, method: str) -> None:
        """Get ready to read the answer to a request with this method."""
        self._handler.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """Queue `data`; if the connection is gone, the answer will say so."""
        transport = self._handler.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def drained(self) -> None:
        """Wait until the node has taken enough of what was written.  Raises NodeFailed."""
        try:
            await self._handler._drain_helper()
        except ConnectionError as exc:
            raise NodeFailed(f"closed while it was being written to: {exc}") from None

    async def answer(self) -> tuple[RawResponseMessage, StreamReader]:
        """Return the next head, also a 1xx, and the body behind it.  Raises NodeFailed."""
        try:
            message, self._body = await self._handler.read()
        except (ClientError, HttpProcessingError, OSError) as exc:
            raise NodeFailed(f"no answer: {self.fault or exc or type(exc).__name__}") from None
        return message, self._body

    @property
    def is_reusable(self) -> bool:
        return self._handler.is_connected() and not self._handler.should_close

    @property
    def is_full(self) -> bool:
        """Whether the node has yet to take much of what was written."""
        return self._handler.writing_paused

    @property
    def was_reset(self) -> bool:
        """Whether it ended with an error: a body that lasts until the connection ends is then cut short."""
        return isinstance(self._handler.exception(), OSError)

    def detach(self) -> tuple[asyncio.Transport | None, bytes]:
        """Give up the connection after a 101: the transport, None if the node closed it, and what came behind it."""
        handler = self._handler
        transport, handler.transport = handler.transport, None
        tail, handler._tail = handler._tail, b""
        handler._parser = None  # it refers back to the handler: without the cycle both are freed at once
        return transport, tail

    def close(self) -> None:
        """Close at once, whatever is still unsent; whoever reads the answer is told.  No-op once detached."""
        self._handler.abort()
        if not self._body.is_eof():  # aiohttp would leave its reader waiting
            self._body.set_exception(ClientPayloadError("the connection to the node was cut"))

    def give_up(self, fault: str) -> None:
        """Close at once; who waits for the answer is told of `fault`."""
        self.fault = fault
        self.close()
