"""The request that opened a session, as python-socketio gives it to its users: a WSGI-like `environ`.

What is kept for each connection is the head of its request as bytes, and the client's address.  The dictionary, with
an `aiohttp.web.Request` in it, is made of them when somebody looks into it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD

MOST_HEAD_BYTES = 2**17


def head_of(request: web.BaseRequest) -> bytes:
    """Return the head of `request` as it may have come in."""
    version = request.version
    lines = [f"{request.method} {request.raw_path} HTTP/{version.major}.{version.minor}".encode()]
    lines += [b"%b: %b" % each for each in request.raw_headers]
    return b"\r\n".join((*lines, b"", b""))


class Environ(dict[str, Any]):
    """The `environ` of the request with `head`, from the address `remote`: made when somebody looks into it."""

    __slots__ = ("_source",)
    _source: tuple[bytes, str | None]

    def __new__(cls, head: bytes, remote: str | None) -> Environ:
        unread = dict.__new__(_Unread)
        unread._source = (head, remote)
        return unread

    def __init__(self, head: bytes, remote: str | None) -> None:
        super().__init__()


class _Unread(Environ):
    """An environ that nobody has looked into yet.  Each method of a dict makes an Environ of it first."""

    __slots__ = ()

    def _read(self) -> None:
        head, remote = self._source
        self.__class__ = Environ  # type: ignore[assignment]
        self.update(environ_of(head, remote))


def _reading(name: str) -> Callable[..., Any]:
    inherited = getattr(dict, name)

    def read_first(self: _Unread, *args: Any, **kwargs: Any) -> Any:
        self._read()
        return inherited(self, *args, **kwargs)

    read_first.__name__ = name
    return read_first


_OPERATORS = "contains delitem eq getitem ior iter len ne or repr reversed ror setitem"
_METHODS = "clear copy get items keys pop popitem setdefault update values"
for _name in (*(f"__{operator}__" for operator in _OPERATORS.split()), *_METHODS.split()):
    setattr(_Unread, _name, _reading(_name))


def environ_of(head: bytes, remote: str | None) -> dict[str, Any]:
    """Return what `engineio.async_drivers.aiohttp.translate_request` makes of it, but with the true REMOTE_ADDR."""
    request = request_of(head, remote)
    environ: dict[str, Any] = {
        "wsgi.input": request.content,
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.async": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "SERVER_SOFTWARE": "aiohttp",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string,
        "RAW_URI": request.path_qs,
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "REMOTE_ADDR": remote or "127.0.0.1",
        "REMOTE_PORT": "0",
        "SERVER_NAME": "aiohttp",
        "SERVER_PORT": "0",
        "aiohttp.request": request,
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            environ[key] = value
        else:
            key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["wsgi.url_scheme"] = environ.get("HTTP_X_FORWARDED_PROTO", "http")
    environ["PATH_INFO"] = request.path
    environ["SCRIPT_NAME"] = ""
    return environ


def request_of(head: bytes, remote: str | None) -> web.Request:
    """Return the request with this head, which aiohttp's parser has taken before; its connection is no longer HTTP."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(
        _NO_PROTOCOL,  # type: ignore[arg-type]
        loop,
        2**16,
        max_line_size=MOST_HEAD_BYTES,
        max_field_size=MOST_HEAD_BYTES,
        max_headers=MOST_HEAD_BYTES,
    )
    [(message, _)], _, _ = parser.feed_data(head)
    return web.Request(
        message,
        EMPTY_PAYLOAD,
        _NO_PROTOCOL,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        loop,
        remote=remote,
    )


class _NoProtocol:
    """What is left of a request's HTTP connection when it has become a WebSocket, or belongs to other requests."""

    transport = ssl_context = peername = sockname = None


_NO_PROTOCOL = _NoProtocol()
