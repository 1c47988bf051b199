"""Plain HTTP that leads to https (`lb.tls.redirect`): every request is answered with where the same is to be had.

But for the challenges of ACME (RFC 8555 8.3), which are asked for here and nowhere else: without them no certificate
could be renewed as long as this port is ours.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from aiohttp.http import StreamWriter
from aiohttp.web import BaseRequest

from cluster.proxies import TrustedProxies
from lb.arrivals import Arrivals, Straight, defer_accept
from lb.downstream import Downstream, DownstreamLimits
from lb.downstreams import Downstreams
from lb.errors import BadRequest, BalancerError, NotForwarded, answer_to
from lb.exchange import Sent
from lb.headers import Headers, Via, values
from lb.keepalive import keep_alive
from lb.reception import Reception
from lb.strict import read_strictly

HTTPS = 443

_HOST = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""Stricter than HTTP is: nothing that a browser might take for another host than we do."""

_CHALLENGE = re.compile(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,128})")
_MOST_CHALLENGE = 4096


Check = Callable[[str, str, Headers, str], None]


class Redirect:
    """Serves the plain side.

    Its clients count as all others do: `limits` are those of the front, and so is `check`, which is given method,
    target, headers and peer of a request and raises what is wrong with it.
    """

    def __init__(
        self, limits: DownstreamLimits, check: Check, redirected: Callable[[], None], challenges: Path | None
    ) -> None:
        self._limits = limits
        self._check = check
        self._redirected = redirected
        self._challenges = challenges
        self._port = HTTPS
        self._arrivals: Arrivals | None = None
        self.reception = Reception(Downstreams(self._serve, limits), None)

    def start(self, listening: socket.socket, port: int, proxies: TrustedProxies) -> None:
        """Serve on `listening`, which this takes over, and send clients to `port`."""
        self._port = port
        keep_alive(listening)
        defer_accept(listening)
        limits = self._limits
        self._arrivals = Arrivals(
            listening,
            limits.admission,
            Straight(),
            self.reception.receive,
            proxies=proxies,
            head_timeout_s=limits.head_timeout_s,
            rejected=limits.rejected,
        )
        self._arrivals.open()

    def close(self) -> None:
        """Accept no more."""
        if self._arrivals is not None:
            self._arrivals.close()

    async def _serve(self, request: BaseRequest) -> Sent:
        began, connection = time.monotonic(), cast(Downstream, request.protocol)
        may_stay = request.keep_alive and not self.reception.is_stopping and request.content.is_eof()
        may_stay = may_stay and request.version >= (1, 1)
        status, answer = self._answer(request, may_stay=may_stay)
        may_stay = may_stay and status < 400
        if status >= 400:
            connection.expect_no_more()
        try:
            await cast(StreamWriter, request.writer).write(answer)
        except ConnectionError:
            return Sent(keep_alive=False, status=499)  # the client is gone
        access = self._limits.access
        if access.is_on:
            asked = access.asked(request.method, request.raw_path, request.raw_headers, Via(connection.peer, False))
            access.answered(asked, "", status, time.monotonic() - began, 0, request.writer.output_size)
        return Sent(keep_alive=may_stay, status=status)

    def _answer(self, request: BaseRequest, *, may_stay: bool) -> tuple[int, bytes]:
        """Return the status of the answer and all of it."""
        head_only = request.method == "HEAD"
        try:
            method, version = request.method, request.version
            target, headers = read_strictly(method, request.raw_path, version, request.raw_headers)
            self._check(method, target, headers, cast(Downstream, request.protocol).peer)
            if method in ("GET", "HEAD") and (challenge := self._challenge(target)) is not None:
                return 200, _answer_of("200 OK", challenge, [], may_stay=may_stay, head_only=head_only)
            location = secured(method, target, headers, self._port)
        except BalancerError as exc:
            if exc.counted_as:
                self._limits.rejected(exc.counted_as)
            close = exc.http_status >= 400 or not may_stay
            return exc.http_status, answer_to(exc, close=close, head_only=head_only)
        self._redirected()
        status, lines = "308 Permanent Redirect", [b"Location: " + location]  # RFC 9110 15.4.9: same method and body
        text = f"{status}\n".encode()
        return 308, _answer_of(status, text, lines, may_stay=may_stay, head_only=head_only)

    def _challenge(self, target: str) -> bytes | None:
        """Return the answer to an ACME challenge, if there is one."""
        match = _CHALLENGE.fullmatch(target)
        if match is None or self._challenges is None:
            return None
        try:
            with (self._challenges / ".well-known" / "acme-challenge" / match[1]).open("rb") as file:
                return file.read(_MOST_CHALLENGE)
        except OSError:
            return None  # perhaps the application answers it, where we lead


def secured(method: str, target: str, headers: Headers, port: int) -> bytes:
    """Return the https URI of what was asked for.  Raises BadRequest or NotForwarded."""
    if method == "CONNECT":
        raise NotForwarded("CONNECT")
    hosts = values(headers, b"host")
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        raise BadRequest("no Host that one could be sent to")
    if not target.startswith("/"):
        raise BadRequest("there is no such thing as * over https alone")
    path = re.sub(rb"[^!-~]", lambda octet: b"%%%02X" % octet[0][0], target.encode("utf-8", "surrogateescape"))
    return b"https://" + match[1] + (b"" if port == HTTPS else b":%d" % port) + path


def _answer_of(status: str, body: bytes, lines: list[bytes], *, may_stay: bool, head_only: bool) -> bytes:
    head = [
        f"HTTP/1.1 {status}".encode(),
        *lines,
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(body),
        # Browsers would remember a 308 for ever, whatever becomes of the configuration.
        b"Cache-Control: no-store",
        *([] if may_stay else [b"Connection: close"]),
    ]
    return b"\r\n".join([*head, b"", b"" if head_only else body])
