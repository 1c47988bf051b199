"""Who wants to know what happens to clients."""

from __future__ import annotations

from typing import Any, Protocol

from node.rooms import Client, Room


class Observer(Protocol):
    """Told at once, in plain calls; must not raise."""

    def came(self, client: Client) -> None:
        """A client asks to connect."""

    def left(self, client: Client, reason: str) -> None: ...

    def received(self, client: Client, event: list[Any]) -> None: ...

    def sent(self, client: Client, event: list[Any]) -> None: ...

    def entered(self, client: Client, room: Room) -> None: ...

    def quit(self, client: Client, room: Room) -> None: ...
