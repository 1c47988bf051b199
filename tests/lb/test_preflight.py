"""Whether an application can be imported is found out elsewhere, whatever it does there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lb.preflight import app_problem
from tests.support.commands import written
from tests.support.stack import ROOT


@pytest.fixture(autouse=True)
def _beside_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _problem(directory: Path, source: str, within_s: float = 30) -> str:
    (directory / "shop.py").write_text(source, encoding="utf-8")
    file = written(directory, {"nodes": {"app": "shop:sio"}})
    return asyncio.run(app_problem(file, directory, within_s))


def test_a_good_application_is_no_problem(tmp_path: Path) -> None:
    """What it prints is not shown."""
    assert _problem(tmp_path, "print('hello')\nfrom node import Server\nsio = Server()\n") == ""


def test_an_exception_is_told_with_the_users_own_traceback(tmp_path: Path) -> None:
    """Its last line says it all."""
    problem = _problem(tmp_path, "def f():\n    raise ZeroDivisionError('mine')\nf()\n")
    assert "shop.py" in problem
    assert problem.splitlines()[-1].startswith("app shop:sio: importing it failed: ZeroDivisionError")


def test_an_import_that_never_ends_is_a_problem(tmp_path: Path) -> None:
    """It is killed with whatever it started."""
    problem = _problem(tmp_path, "import time\ntime.sleep(600)\n", within_s=0.5)
    assert problem == "nodes.app: importing it is not done after 0.5 s"


def test_an_application_that_ends_its_process_silently_is_a_problem(tmp_path: Path) -> None:
    """As a crash in a C library does."""
    assert _problem(tmp_path, "import os\nos._exit(9)\n") == "nodes.app: the check ended with 9"
