"""What comes to the path of Engine.IO: HTTP requests, and connections that are to become WebSockets."""

from __future__ import annotations

import inspect
import logging
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from node.channel import Channel, ChannelLimits, Receiver
from node.cors import Cors
from node.environ import Environ, head_of
from node.frames import TEXT, frame
from node.opening import Headers, take_over
from node.options import EngineOptions
from node.polling import Polling
from node.refusal import BAD_REQUEST, FORBIDDEN, UNKNOWN_SID, Refusal, query_of, refusal_of
from node.session import Session
from node.upgrade import POLICY_VIOLATION, Probe

if TYPE_CHECKING:
    from node.engine import Engine

log = logging.getLogger(__name__)

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Content encodings, and what zlib calls them (RFC 9110 8.4.1)."""

Opening = Callable[[Receiver, Headers], Channel]
"""Answers a request with 101 and further headers, and gives its connection to a receiver."""


class Intake:
    """Decides on requests for `engine`, and serves them."""

    def __init__(self, engine: Engine, options: EngineOptions) -> None:
        self._engine = engine
        self.transports = options.transports
        self.allow_request = options.allow_request
        self._cors = Cors(options.cors_allowed_origins, credentials=options.cors_credentials)
        self._cookie = SidCookie(options.cookie)
        self._compress_from = options.compression_threshold if options.http_compression else None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request.  Raises web.HTTPException for a WebSocket that RFC 6455 does not let open."""
        engine, method, headers = self._engine, request.method, request.headers
        engine.settle()
        head, remote = head_of(request), request.remote
        refusal = self._origin_refused(headers, head, remote)
        if refusal is None and method == "OPTIONS":
            return web.Response(status=204, headers=self._cors.headers(method, headers))
        is_upgrade = asks_for_websocket(headers)
        query = query_of(request.raw_path)
        session = self._find(query.get("sid"), is_poll=method == "GET" and not is_upgrade)
        if refusal is None:
            refusal = self._refusal(method, query, is_upgrade, session)
        if refusal is None and session is None:
            refusal = await self._forbidden(Environ(head, remote))
        if engine.leaving and session is None and refusal in (None, UNKNOWN_SID):
            return leaving()
        if refusal is not None:
            return self._refused(refusal, method, headers)
        if is_upgrade:
            return self._taken(request, session, head, remote)
        if session is None:
            return self._answer(self._open(head, remote), request)
        return await self._exchange(request, session)

    def _find(self, sid: str | None, *, is_poll: bool) -> Session | None:
        if sid is None:
            return None
        session = self._engine.sessions.get(sid)
        if session is not None:
            return None if session.is_overdue(self._engine.time()) else session
        lingering = self._engine.lingering.get(sid) if is_poll else None
        return None if lingering is None or lingering.polling is None else lingering

    def _refusal(
        self, method: str, query: Mapping[str, str], is_upgrade: bool, session: Session | None
    ) -> Refusal | None:
        refusal = refusal_of(method, query, is_upgrade, session, self.transports)
        if refusal is None and is_upgrade and session is not None and not self._engine.allow_upgrades:
            return BAD_REQUEST
        return refusal

    def _origin_refused(self, headers: Mapping[str, str], head: bytes, remote: str | None) -> Refusal | None:
        origin = headers.get("Origin")
        if origin is None:
            return None
        try:
            if self._cors.allows(origin, headers, lambda: Environ(head, remote)):
                return None
        except Exception:
            log.exception("cors_allowed_origins failed", extra={"origin": origin})
        log.info("request refused: another origin", extra={"origin": origin})
        return Refusal(BAD_REQUEST.code, f"{origin} is not an accepted origin.")

    async def _forbidden(self, environ: Environ) -> Refusal | None:
        if self.allow_request is None:
            return None
        try:
            verdict = self.allow_request(environ)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception:
            log.exception("allow_request failed")
            return FORBIDDEN
        if isinstance(verdict, str):
            return Refusal(FORBIDDEN.code, verdict, FORBIDDEN.status)
        return None if verdict else FORBIDDEN

    # Polls

    def _open(self, head: bytes, remote: str | None) -> web.Response:
        engine = self._engine
        session = Session(engine, engine.generate_id(), head, remote)
        session.polling = Polling(session)
        answer = _polled(engine.open_packet(session))
        answer.headers.extend(self._cookie.headers(session.sid))
        engine.open(session)
        return answer

    async def _exchange(self, request: web.Request, session: Session) -> web.Response:
        assert session.polling is not None
        if request.method == "GET":
            body = await session.polling.poll(request)
            if body is None:
                return leaving()
            if isinstance(body, Refusal):
                return self._refused(body, request.method, request.headers)
            return self._answer(_polled(body), request)
        refusal = await session.polling.post(request)
        if refusal is not None:
            return self._refused(refusal, request.method, request.headers)
        return self._answer(_polled(b"ok"), request)

    def _answer(self, answer: web.Response, request: web.Request) -> web.Response:
        body, headers = answer.body, request.headers
        answer.headers.extend(self._cors.headers(request.method, headers))
        if self._compress_from is not None and isinstance(body, bytes) and len(body) >= self._compress_from:
            accepted = [each.partition(";")[0].strip() for each in headers.get("Accept-Encoding", "").split(",")]
            encoding = next((each for each in accepted if each in _WINDOWS), None)
            if encoding is not None:
                compressor = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, _WINDOWS[encoding])
                answer.body = compressor.compress(body) + compressor.flush()
                answer.headers["Content-Encoding"] = encoding
        return answer

    def _refused(self, refusal: Refusal, method: str, headers: Mapping[str, str]) -> web.Response:
        answer = web.Response(body=refusal.body, status=refusal.status, content_type="application/json")
        answer.headers.extend(self._cors.headers(method, headers))
        if asks_for_websocket(headers):
            answer.force_close()  # What may follow is not HTTP.
        return answer

    # WebSockets

    @property
    def limits(self) -> ChannelLimits:
        return self._engine.limits

    def open_websocket(
        self, target: str, headers: Mapping[str, str], head: bytes, remote: str | None, opening: Opening
    ) -> bool:
        """Open a WebSocket for a GET of `target` that aiohttp does not serve; return False if it must.

        Raises what `opening` does; then nothing has happened.
        """
        engine = self._engine
        engine.settle()
        if engine.leaving or self.allow_request is not None or self._origin_refused(headers, head, remote) is not None:
            return False
        query = query_of(target)
        session = self._find(query.get("sid"), is_poll=False)
        if self._refusal("GET", query, asks_for_websocket(headers), session) is not None:
            return False
        self._websocket(session, head, remote, opening)
        return True

    def _taken(
        self, request: web.Request, session: Session | None, head: bytes, remote: str | None
    ) -> web.StreamResponse:
        answers: list[web.StreamResponse] = []

        def opening(receiver: Receiver, headers: Headers) -> Channel:
            channel, answer = take_over(request, receiver, self._engine.limits, headers)
            answers.append(answer)
            return channel

        self._websocket(session, head, remote, opening)
        return answers[0]

    def _websocket(self, session: Session | None, head: bytes, remote: str | None, opening: Opening) -> None:
        engine = self._engine
        if session is None:
            session = Session(engine, engine.generate_id(), head, remote)
            session.channel = opening(session, self._cookie.headers(session.sid))
            session.channel.write(frame(TEXT, engine.open_packet(session)))
            engine.open(session)
            return
        probe = Probe(session)
        channel = opening(probe, ())
        if session.polling is None or session.polling.probe is not None:
            # "A client MUST NOT open more than one WebSocket connection per session. Should it happen, the server MUST
            # close the WebSocket connection."
            channel.close(POLICY_VIOLATION, "the session has a WebSocket")
        else:
            session.polling.probe = probe
            probe.start(channel, engine.time())


def asks_for_websocket(headers: Mapping[str, str]) -> bool:
    """Tell whether these headers ask for an upgrade to a WebSocket, well or badly formed."""
    return "websocket" in headers.get("Upgrade", "").lower()


def _polled(body: bytes) -> web.Response:
    headers = {"Content-Type": "text/plain; charset=UTF-8", "Cache-Control": "no-store"}
    return web.Response(body=body, headers=headers)


def leaving() -> web.Response:
    """Return the answer of a node that is being left."""
    return web.Response(status=503, text="This node is leaving.", headers={"Retry-After": "1"})


class SidCookie:
    """The cookie with a session's sid, if it is asked for: a name, or a dictionary with `name` and its attributes."""

    def __init__(self, given: str | Mapping[str, Any] | None) -> None:
        self._name = ""
        self._attributes: Mapping[str, Any] = {}
        if isinstance(given, str):
            self._name, self._attributes = given, {"path": "/", "SameSite": "Lax"}
        elif given:
            self._name = given.get("name", "io")
            self._attributes = {key: value for key, value in given.items() if key != "name"}

    def headers(self, sid: str) -> list[tuple[str, str]]:
        """Return the header that sets it."""
        if not self._name:
            return []
        parts = [f"{self._name}={sid}"]
        for name, value in self._attributes.items():
            value = value() if callable(value) else value
            if value is True:
                parts.append(name)
            elif value is not False and value is not None:
                parts.append(f"{name}={value}")
        return [("Set-Cookie", "; ".join(parts))]
