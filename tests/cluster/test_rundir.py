"""Run directories: private, locked while their supervisor lives, and gone when it ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import StartError
from cluster.rundir import RunDir, base_directory, dead_directories, run_directory
from tests.support.commands import runtime_directory
from tests.support.stack import ROOT


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with runtime_directory() as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
        yield directory


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_base_lies_in_the_users_runtime_directory_and_is_private(runtime: Path) -> None:
    """0700, also when it was there with other rights."""
    base = base_directory()
    assert base == runtime / "flotilla"
    assert _mode(base) == 0o700
    base.chmod(0o777)
    assert _mode(base_directory()) == 0o700


def test_without_a_runtime_directory_it_lies_with_the_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named after the user, as everybody may write there."""
    with runtime_directory() as directory:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(directory))
        assert base_directory() == directory / f"flotilla-{os.geteuid()}"


def test_a_runtime_directory_that_is_too_long_for_sockets_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A unix socket's path has at most 107 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert len(os.fsencode(base_directory())) <= 64


def test_a_base_that_somebody_else_put_there_is_refused(runtime: Path, tmp_path: Path) -> None:
    """A symbolic link or a file in our place: a hostile /tmp must not get our sockets."""
    (runtime / "flotilla").symlink_to(tmp_path)
    with pytest.raises(StartError, match="is not a directory of this user"):
        base_directory()
    (runtime / "flotilla").unlink()
    (runtime / "flotilla").write_text("", encoding="ascii")
    with pytest.raises(StartError, match="flotilla"):
        base_directory()


def test_a_base_of_another_user_is_refused(runtime: Path) -> None:
    """Its owner could read what we put there."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    (runtime / "flotilla").mkdir()
    os.chown(runtime / "flotilla", 65534, 65534)
    with pytest.raises(StartError, match="is not a directory of this user"):
        base_directory()


def test_a_run_directory_is_private_and_gone_afterwards(runtime: Path) -> None:
    """With everything in it, whatever happened."""
    base = base_directory()

    def crash() -> None:
        with run_directory(base) as run_dir:
            assert _mode(run_dir.path) == 0o700
            (run_dir.path / "left.sock").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert list(base.iterdir()) == []


def test_only_directories_of_the_dead_are_found(runtime: Path) -> None:
    """The lock is the kernel's: it ends with its process, also by kill -9."""
    base = base_directory()
    code = (
        "import sys; from pathlib import Path; from cluster.rundir import run_directory\n"
        f"with run_directory(Path({str(base)!r})) as run_dir: print(run_dir.path, flush=True); sys.stdin.read()"
    )
    with run_directory(base):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as other:
            assert other.stdout is not None
            path = Path(other.stdout.readline().strip())
            assert dead_directories(base) == []
            other.kill()
            other.wait()
        assert dead_directories(base) == [RunDir(path)]


def test_a_base_where_nothing_can_be_made_is_one_line(runtime: Path) -> None:
    """As when the directory went away meanwhile."""
    with pytest.raises(StartError, match="cannot be made"), run_directory(runtime / "gone"):
        pass


def test_reports_are_replaced_whole_and_found_by_prefix(tmp_path: Path) -> None:
    """Drafts of a report are not reports."""
    run_dir = RunDir(tmp_path)
    assert run_dir.report("worker-0") is None
    for index in range(2):
        run_dir.publish(f"worker-{index}", {"index": index})
    run_dir.publish("supervisor", {})
    (tmp_path / ".worker-2.99").write_text("{", encoding="ascii")
    assert run_dir.reports("worker-") == {"worker-0": {"index": 0}, "worker-1": {"index": 1}}
    run_dir.forget("worker-0")
    run_dir.forget("worker-0")
    assert list(run_dir.reports("worker-")) == ["worker-1"]


def test_a_private_file_is_for_us_alone_and_never_behind_a_link(tmp_path: Path) -> None:
    """It holds the cluster's secret."""
    run_dir = RunDir(tmp_path)
    assert _mode(run_dir.write_private("config", "x")) == 0o600
    (tmp_path / "trap").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        run_dir.write_private("trap", "x")
