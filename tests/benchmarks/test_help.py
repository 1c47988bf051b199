"""Each benchmark says how to use it, whatever the names of the files beside it hide."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measure import ROOT
from tests.benchmarks.scripts import ran

SCRIPTS = sorted(
    file.name
    for file in (ROOT / "benchmarks").glob("*.py")
    if file.name != "command_line.py" and "from benchmarks.command_line import" in file.read_text()
)


def test_all_scripts_are_found() -> None:
    """Or those below would test nothing."""
    assert {"bus.py", "http.py", "outage.py", "relay.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_as_one(script: str, tmp_path: Path) -> None:
    """From another directory: http.py and socketio.py must not be found in place of the libraries."""
    done = ran(script, "--help", directory=tmp_path, scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
