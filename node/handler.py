"""The seam between Engine.IO and what is spoken over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from node.session import Session


class Handler(Protocol):
    """Who gets what happens to sessions.  All of it is synchronous, and none of it may raise."""

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, data: str | bytes) -> None: ...

    def ended(self, session: Session, reason: str) -> None:
        """Called once for each session that was opened or adopted, unless it moves to another process."""

    def taken(self, session: Session) -> Any:
        """A session moves to another process: return what `given` needs there, as plain data.

        May raise NotPortable (node/migration.py); then nothing has changed.
        """

    def given(self, session: Session, state: Any) -> None:
        """Go on with a session that comes from another process, or stays here after all."""
