"""The body of a request on its way to a node, while the node may already answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp.streams import StreamReader
from aiohttp.web import RequestPayloadError

from lb.chunks import LAST_CHUNK
from lb.errors import BadRequest, BalancerError, BodyTooLarge, NodeFailed
from lb.guards import BodyLimits
from lb.headers import Headers, values
from lb.link import Link
from lb.luggage import Remainder


def chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk (RFC 9112 7.1)."""
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n"))  # formatting would copy it twice


_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def may_be_passed_over(method: str, headers: Headers) -> bool:
    """Tell whether a request has a body that a server may not read, and then take for the next request.

    What it answers to that would be the next client's.  Such servers are known for bodies to which the method gives no
    meaning (RFC 9110 9.3.1, 9.3.5), and for those of clients that are to wait for a 100 (10.1.1): who answers at once
    may think that it will not come.
    """
    has_body = bool(values(headers, b"transfer-encoding")) or any(
        int(each) for each in values(headers, b"content-length")
    )
    return has_body and (method not in _WITH_BODY or bool(values(headers, b"expect")))


def whole(body: StreamReader, *, chunked: bool) -> bytes:
    """Return a body that has arrived entirely, framed."""
    data = body.read_nowait()
    if not chunked:
        return data
    return (chunk(data) if data else b"") + LAST_CHUNK


class Upload:
    """Carries one request body to a node.  `problem` is the client's fault, if there was one."""

    def __init__(
        self,
        body: StreamReader,
        link: Link,
        *,
        chunked: bool,
        limits: BodyLimits,
        remainder: Remainder | None = None,
    ) -> None:
        """With a `remainder`, `body` is that of a body whose beginning the node has got."""
        self._body = body
        self._link = link
        self._chunked = chunked
        self._limits = limits
        self._before = self._invented = self._lacks = 0
        self._waited_s, self._end = 0.0, LAST_CHUNK
        if remainder is not None:
            stand = remainder.stand
            self._before, self._waited_s = remainder.received - stand.invented, remainder.waited_s
            self._invented, self._lacks, self._end = stand.invented, stand.lacks, stand.end
        self.problem: BalancerError | None = None
        self.done = False
        self.on_end: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Carry everything.  Ends early, and closes the link so that nobody waits for an answer, if that fails."""
        try:
            await self._carry()
            self.done = True
        except NodeFailed:
            # What the node answered before it closed counts, and else its end does: whoever reads the answer sees.
            return
        except RequestPayloadError as exc:
            self.problem = BadRequest(f"the body is not what its head says: {exc}")
        except BodyTooLarge as exc:
            self.problem = exc
        except TimeoutError:
            self.problem = self._limits.too_slow(self._received, self._waited_s)
        if self.problem is not None:
            self._link.close()
        self.on_end()

    async def _carry(self) -> None:
        while True:
            data = await self._piece()
            if not data:
                break
            self._limits.check(self._received)
            self._link.write(self._framed(data) if self._chunked else data)
            await self._link.drained()
        if self._chunked:
            self._link.write(self._end)

    @property
    def _received(self) -> int:
        """How many bytes of content came, in all."""
        return self._before + self._body.total_bytes

    def _framed(self, data: bytes) -> bytes:
        """Return `data` in chunks, what the node lacks of one that has begun first."""
        if self._invented:
            data, self._invented = data[self._invented :], 0
        of_chunk = b""
        if self._lacks:
            of_chunk, data = data[: self._lacks], data[self._lacks :]
            self._lacks -= len(of_chunk)
            if not self._lacks:
                of_chunk += b"\r\n"
        return of_chunk + chunk(data) if data else of_chunk

    async def _piece(self) -> bytes:
        """Return what comes next.  Only time in which we wait for the client counts: nodes may be slow as well."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._limits.patience_s(self._received, self._waited_s)):
                return await self._body.readany()
        finally:
            self._waited_s += loop.time() - began


@asynccontextmanager
async def running(upload: Upload) -> AsyncIterator[Upload]:
    """Run `upload` alongside; what is not sent at the end of the block is not sent."""
    task = asyncio.get_running_loop().create_task(upload.run())
    try:
        yield upload
    finally:
        task.cancel()
        await asyncio.wait([task])
