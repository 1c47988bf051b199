"""The pipes from one child to its supervisor: standard output, standard error, and the ready descriptor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import FileIO
from typing import Self

from cluster.lines import LineSplitter


class Pipes:
    """Our ends (`reading`) and the child's ends (`out`, `err`, `ready`: descriptors); all are closed with the block."""

    def __init__(self, *, ready: bool) -> None:
        """Raises OSError: no descriptor is left."""
        self._ours, self._theirs = ExitStack(), ExitStack()
        self.reading: list[FileIO] = []
        """In the order out, err, ready."""
        try:
            self.out, self.err = self._open(), self._open()
            self.ready = self._open() if ready else None
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._theirs.close()
        self._ours.close()

    def close_theirs(self) -> None:
        """The child has them now: so our ends end when it does."""
        self._theirs.close()

    def _open(self) -> int:
        reading, writing = os.pipe()
        self.reading.append(self._ours.enter_context(FileIO(reading, "rb")))
        self._theirs.callback(os.close, writing)
        return writing


class PipeReader(asyncio.Protocol):
    """Tells each of `readers` each line that comes through a pipe."""

    def __init__(self, readers: Sequence[Callable[[str], None]]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers = readers
        self._lines = LineSplitter()
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    async def connect(cls, file: FileIO, *readers: Callable[[str], None]) -> PipeReader:
        """Read `file`, our end of a pipe, until it ends or is closed."""
        _, protocol = await asyncio.get_running_loop().connect_read_pipe(lambda: cls(readers), file)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._tell(self._lines.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell(self._lines.rest())
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            for reader in self._readers:
                reader(line)
