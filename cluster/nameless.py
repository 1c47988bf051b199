"""Files without a name: only who holds its descriptor can read one, and it is gone with the last of those."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import ExitStack
from typing import IO

_HAS_MEMORY = hasattr(os, "memfd_create")


def nameless(content: bytes) -> IO[bytes]:
    """Return a file that holds `content`, to be read from its beginning.  Raises OSError.

    No program that we start inherits it unless it is given to it.  It is in memory, and nobody can change it
    (memfd_create(2)).  Where the system has no such thing, as macOS, it is in the directory for temporary files, and
    its name was taken away at once.
    """
    with ExitStack() as opened:
        file = opened.enter_context(_empty())
        file.write(content)
        file.seek(0)
        if _HAS_MEMORY:
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        opened.pop_all()
        return file


def whole(fd: int) -> bytes:
    """Return all that the file behind `fd` holds, wherever others who share it have read to.  Raises OSError."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def path_of(file: IO[bytes]) -> str:
    """Return a path at which this process can open `file` as long as it is open."""
    return f"/dev/fd/{file.fileno()}"


def _empty() -> IO[bytes]:
    if _HAS_MEMORY:
        return os.fdopen(os.memfd_create("flotilla", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    return tempfile.TemporaryFile()
