"""How handlers are registered: python-socketio's ways, with types, and routes that hear of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import socketio

from node.routes import Routes

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Registration(socketio.AsyncServer):  # type: ignore[misc]
    """The part of a Server in which handlers are registered."""

    _routes: Routes

    @overload
    def event(self, handler: Handler, /) -> Handler: ...

    @overload
    def event(self, *, namespace: str | None = None) -> Callable[[Handler], Handler]: ...

    def event(self, *args: Any, **kwargs: Any) -> Any:
        """As python-socketio's `event`, with types: a handler keeps its own."""
        return super().event(*args, **kwargs)

    @overload
    def on(self, event: str, handler: Handler, namespace: str | None = None) -> Handler: ...

    @overload
    def on(self, event: str, handler: None = None, namespace: str | None = None) -> Callable[[Handler], Handler]: ...

    def on(self, event: str, handler: Any = None, namespace: str | None = None) -> Any:
        """Register `handler` for `event`; without one, return a decorator that does."""
        if handler is None:
            return lambda given: self.on(event, given, namespace)
        super().on(event, handler, namespace)
        self._routes.forget()
        return handler

    def register_namespace(self, namespace_handler: socketio.AsyncNamespace) -> None:
        super().register_namespace(namespace_handler)
        self._routes.forget()

    def forget_routes(self) -> None:
        """Look handlers up anew: call it after a change of `handlers` or `namespace_handlers` themselves."""
        self._routes.forget()
