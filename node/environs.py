"""`sio.environ`: the environ of each session, by its Engine.IO sid, as python-socketio keeps it in a dictionary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from node.engine import Engine
from node.environ import Environ


class Environs(Mapping[str, Environ]):
    """Made from the sessions when somebody looks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, eio_sid: str) -> Environ:
        return self._engine.sessions[eio_sid].environ

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._engine.sessions))

    def __len__(self) -> int:
        return len(self._engine.sessions)
