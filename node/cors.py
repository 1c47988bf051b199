"""Which web pages may talk to this server: cross-origin requests (https://fetch.spec.whatwg.org/#http-cors-protocol).

WebSockets are checked as well: browsers send their `Origin`, but leave it to the server to refuse.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.errors import UsageError

Allowed = None | str | Iterable[str] | Callable[..., Any]


class Cors:
    """The rules of `cors_allowed_origins`, as python-socketio documents them.

    None: the page's own server only; `"*"`, or a list with it: everybody; a string or a list: these; a callable, of the
    origin or of the origin and the environ: whoever it says; an empty list: no rules, and no headers.
    """

    def __init__(self, allowed: Allowed, *, credentials: bool) -> None:
        self._credentials = credentials
        self._decide: Callable[..., Any] | None = None
        self._takes_environ = False
        self._origins: frozenset[str] | None = None
        self._is_same_origin = allowed is None
        if callable(allowed):
            self._decide = allowed
            self._takes_environ = _parameters_of(allowed) > 1
        elif isinstance(allowed, str):
            self._origins = frozenset({allowed})
        elif allowed is not None:
            self._origins = frozenset(allowed)
        self.is_off = self._origins == frozenset()
        self._is_open = self._origins is not None and "*" in self._origins

    def allows(self, origin: str, headers: Mapping[str, str], environ: Callable[[], Mapping[str, Any]]) -> bool:
        """Tell whether a page of `origin` may send a request with `headers`.  Raises what a rule of the user's does."""
        if self.is_off or self._is_open:
            return True
        if self._decide is not None:
            return bool(self._decide(origin, environ()) if self._takes_environ else self._decide(origin))
        if self._origins is not None:
            return origin in self._origins
        return origin in _own_origins(headers)

    def headers(self, method: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return what the answer to a request that is allowed says about it."""
        if self.is_off:
            return []
        answer = []
        if origin := headers.get("Origin"):
            answer += [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        if method == "OPTIONS":
            answer.append(("Access-Control-Allow-Methods", "OPTIONS, GET, POST"))
        if asked := headers.get("Access-Control-Request-Headers"):
            answer.append(("Access-Control-Allow-Headers", asked))
        if self._credentials:
            answer.append(("Access-Control-Allow-Credentials", "true"))
        return answer


def _own_origins(headers: Mapping[str, str]) -> list[str]:
    """Return the origins of pages that come from where the request goes: as we see it, and as a proxy of ours does."""
    host = headers.get("Host")
    if host is None:
        return []
    scheme = _first(headers.get("X-Forwarded-Proto", "http"))
    return [f"{scheme}://{host}", f"{scheme}://{_first(headers.get('X-Forwarded-Host', host))}"]


def _first(value: str) -> str:
    return value.partition(",")[0].strip()


def _parameters_of(decide: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(decide).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(
            f"cors_allowed_origins={decide!r}: must take the origin, or the origin and the environ"
        ) from None
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return 2
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
