"""Which options hold: what a user gave to `Server` wins over what the configuration says of the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.dispatch import Dispatcher
    from node.engine import Engine
    from node.place import EngineLimits

_OF_THE_ENGINE = ("ping_timeout", "max_http_buffer_size", "slow_consumer_bytes", "compression")


class Choices:
    """The options that a user `gave`; None is none.  The engine takes its own of them by itself."""

    def __init__(self, gave: Mapping[str, Any]) -> None:
        self._gave = {name: value for name, value in gave.items() if value is not None}
        if not gave.get("async_handlers", True):
            # python-socketio's word for it.
            self._gave["ordered"] = True

    def apply(self, engine: Engine, dispatcher: Dispatcher, limits: EngineLimits | None = None) -> None:
        """Let both work by them, and by the configuration's `limits`, if there is one, in what was not given."""
        if limits is not None:
            self._limit(engine, limits)
        dispatcher.ordered = self._gave.get("ordered", limits is not None and limits.ordered)
        timeout_s = self._gave.get("connect_timeout", None if limits is None else limits.connect_timeout)
        if timeout_s is not None:
            dispatcher.patience.timeout_s = timeout_s

    def _limit(self, engine: Engine, limits: EngineLimits) -> None:
        if "ping_interval" not in self._gave:
            engine.ping_interval, engine.ping_interval_grace_period = limits.ping_interval, 0
        for option in _OF_THE_ENGINE:
            if option not in self._gave:
                setattr(engine, option, getattr(limits, option))
