"""What the tests of the benchmarks share."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.tools import missing, need_js_server


@pytest.fixture
def _nginx() -> None:
    if shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin") is None:
        missing("nginx", "install the package nginx-light")


@pytest.fixture
def _node_js() -> None:
    need_js_server()
