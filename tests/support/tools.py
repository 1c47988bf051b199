"""Tools that a full test run needs and a plain Python machine may lack."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

JS = Path(__file__).parents[1] / "e2e" / "js"
JS_SERVERS = Path(__file__).parents[2] / "benchmarks" / "js"


def missing(what: str, how_to_get: str) -> NoReturn:
    """Skip the test, saying why; in CI (`CI=true`) a missing tool is a failure."""
    reason = f"{what} is missing; {how_to_get}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_js_client() -> str:
    """Return the path of Node.js, if the real JavaScript client is installed as well."""
    return _need_node_package(JS, "socket.io-client", "npm ci --prefix tests/e2e/js")


def need_js_server() -> str:
    """Return the path of Node.js, if the servers that the benchmarks compare with are installed as well."""
    return _need_node_package(JS_SERVERS, "socket.io", "npm ci --prefix benchmarks/js")


def _need_node_package(where: Path, package: str, how_to_get: str) -> str:
    node = shutil.which("node")
    if node is None:
        missing("Node.js", "install the package nodejs")
    if not (where / "node_modules" / package).is_dir():
        missing(package, f"run: {how_to_get}")
    return node


def need_chromium() -> str:
    """Return the path of Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("Chromium", "install the package chromium")
    return chromium


def need_prometheus() -> tuple[str, str]:
    """Return the paths of Prometheus and of promtool."""
    found = shutil.which("prometheus"), shutil.which("promtool")
    if found[0] is None or found[1] is None:
        missing("Prometheus", "install the package prometheus")
    return found[0], found[1]


def need_openssl() -> str:
    """Return the path of OpenSSL's command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "install the package openssl")
    return openssl


def need_page() -> None:
    """The chat page needs the browser client, which the package's build installs."""
    import node.chat

    if not (Path(node.chat.__file__).parent / "static" / "vendor" / "socket.io.min.js").is_file():
        missing("the Socket.IO browser client", "install the package: pip install -e .")
