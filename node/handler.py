"""The seam between Engine.IO and what is spoken over it."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from node.session import Session


class Handler(Protocol):
    """Who gets what happens to sessions.  All of it is synchronous, and none of it may raise."""

    def opened(self, session: Session) -> None: ...

    def received(self, session: Session, data: str | bytes) -> None: ...

    def ended(self, session: Session, reason: str) -> None:
        """Called once for each session that was opened or adopted, unless it moves to another process."""

    @property
    def moving(self) -> Moving: ...


class Moving(Protocol):
    """What a handler does for sessions that go to another process, or come from one (node/migration.py)."""

    def hold(self, session: Session) -> None:
        """Handle nothing more of it; what comes is kept.  Answers that running handlers wait for still reach them."""

    async def quiet(self, session: Session, within_s: float) -> bool:
        """Wait until no handler of it runs and its client has acknowledged everything; tell whether none runs."""

    def busy(self) -> Set[Session]:
        """Return the sessions for which a handler runs now."""

    def release(self, session: Session) -> None:
        """Undo `hold`: what was kept is handled."""

    def taken(self, session: Session) -> Any:
        """It is held, and moves: return what `given` needs there, as plain data.

        May raise NotPortable; then nothing has changed.
        """

    def given(self, session: Session, state: Any) -> None:
        """Go on with a session that comes from another process, or stays here after all.

        May raise NotPortable; then nothing has changed.
        """
