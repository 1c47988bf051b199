"""Files that have no name: in memory, and where there is no such thing, on disk."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from cluster import nameless as module
from cluster.nameless import nameless, path_of, whole


@pytest.fixture(params=["in memory", "on disk"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What the system has; on disk it is in a directory that the test can look into."""
    if request.param == "on disk":
        monkeypatch.setattr(module, "_HAS_MEMORY", False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elif not module._HAS_MEMORY:
        pytest.skip("this system has no memfd_create")
    return str(request.param)


def test_it_is_read_by_its_path_and_by_its_descriptor_and_stands_in_no_directory(tmp_path: Path) -> None:
    """By each as a whole, whoever has read how much of it."""
    content = os.urandom(100_000)
    with nameless(content) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.read(10) == content[:10]
        assert whole(file.fileno()) == content
        file.seek(0)
        assert Path(path_of(file)).read_bytes() == content
        assert whole(file.fileno()) == content


def test_nobody_inherits_it_who_is_not_given_it() -> None:
    """Nodes run the application's code."""
    with nameless(b"key") as file:
        assert not os.get_inheritable(file.fileno())


@pytest.mark.parametrize("kind", ["in memory"], indirect=True)
def test_what_is_in_memory_cannot_be_changed(kind: str) -> None:
    """A worker cannot give its successors something else."""
    with nameless(b"key") as file:
        for change in (lambda: os.pwrite(file.fileno(), b"x", 0), lambda: os.truncate(file.fileno(), 0)):
            with pytest.raises(PermissionError):
                change()


def test_a_file_that_cannot_be_written_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a limit of memory."""

    class Full:
        closed = False

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.closed = True

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    monkeypatch.setattr(module, "_empty", lambda: full)
    with pytest.raises(OSError, match="No space"):
        nameless(b"key")
    assert full.closed
