"""Run a benchmark as a user does, and see what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / script), *arguments]


def environment(temporary: Path) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLOTILLA_", "PYTHONPATH"))}
    return kept | {"TMPDIR": str(temporary)}


def started_in(temporary: Path) -> list[int]:
    """Return the processes that work in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve().is_relative_to(temporary.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def ran(
    script: str, *arguments: str, directory: Path, scratch: Path, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a script from `directory`, with `scratch` for its files, to its end."""
    return subprocess.run(
        command(script, *arguments),
        cwd=directory,
        env=environment(scratch),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def short_run(directory: Path, script: str, *arguments: str, status: int = 0) -> tuple[str, str, dict[str, Any]]:
    """Run it from a directory outside the repository; return what it printed, what it warned of, and its JSON.

    No process and no file of it may be left.
    """
    scratch, figures = directory / "scratch", directory / "figures.json"
    scratch.mkdir()
    done = ran(script, *arguments, "--json", str(figures), directory=directory, scratch=scratch, timeout_s=100)
    assert done.returncode == status, done.stderr
    assert list(scratch.iterdir()) == []
    assert started_in(directory) == []
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return done.stdout, done.stderr, found
