"""Options: what is given to `Server` wins, the configuration is second, and the rest is as it always was."""

from __future__ import annotations

from typing import Any

import pytest

from node import Server
from node.choices import Choices
from node.place import EngineLimits
from node.server import NotInANode

LIMITS = EngineLimits(1.0, 2.0, 3, 4, True, 5.0, True)


def chosen(sio: Server, gave: dict[str, Any], limits: EngineLimits | None) -> tuple[Any, ...]:
    dispatcher = sio.eio.handler
    Choices(gave).apply(sio.eio, dispatcher, limits)  # type: ignore[arg-type]
    engine = sio.eio
    return (
        engine.ping_interval,
        engine.ping_timeout,
        engine.max_http_buffer_size,
        engine.slow_consumer_bytes,
        engine.compression,
        dispatcher.patience.timeout_s,  # type: ignore[attr-defined]
        dispatcher.ordered,  # type: ignore[attr-defined]
    )


def test_without_a_configuration_the_defaults_hold() -> None:
    """Those of python-socketio, and socket.io's connectTimeout."""
    assert chosen(Server(), {}, None) == (25, 20, 1_000_000, 2**20, False, 45.0, False)


def test_the_configuration_holds_for_what_was_not_given() -> None:
    """All of it."""
    assert chosen(Server(), {"ordered": None, "logger": True}, LIMITS) == (1.0, 2.0, 3, 4, True, 5.0, True)


@pytest.mark.parametrize(
    ("gave", "place"),
    [
        ({"ping_interval": 7}, 0),
        ({"ping_timeout": 7}, 1),
        ({"max_http_buffer_size": 7}, 2),
        ({"slow_consumer_bytes": 7}, 3),
        ({"compression": False}, 4),
        ({"connect_timeout": 7.0}, 5),
        ({"ordered": False}, 6),
    ],
)
def test_what_was_given_wins(gave: dict[str, Any], place: int) -> None:
    """Each by itself; the engine has had its own from the start."""
    [(name, value)] = gave.items()
    expected = [1.0, 2.0, 3, 4, True, 5.0, True]
    expected[place] = value
    assert chosen(Server(**gave), gave, LIMITS) == tuple(expected), name


def test_no_async_handlers_is_ordered_whatever_else_is_said() -> None:
    """python-socketio's word for it."""
    for limits in (None, LIMITS):
        assert chosen(Server(async_handlers=False), {"async_handlers": False}, limits)[-1] is True


@pytest.mark.parametrize("name", ["node", "presence", "state"])
def test_what_a_node_gives_is_missing_without_one(name: str) -> None:
    """And says so."""
    with pytest.raises(NotInANode, match=f"sio.{name}: this server does not run in a node"):
        getattr(Server(), name)
