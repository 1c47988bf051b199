"""A balancer worker as a process of its own, started as the supervisor starts it, on sockets that the test holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.config import Config
from tests.support.balancer import SECRET, Caller
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@dataclass
class WorkerProcess:
    """A `python -m lb worker`; its output goes to `log`."""

    process: asyncio.subprocess.Process
    port: int
    admin_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def descriptors(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    async def connect(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()


@dataclass
class Doors:
    """The listening sockets, which outlive every worker on them."""

    directory: Path
    public: socket.socket
    admin: socket.socket

    @property
    def port(self) -> int:
        return int(self.public.getsockname()[1])

    @asynccontextmanager
    async def worker(
        self, *ports: int, index: int = 0, preexec: Callable[[], None] | None = None, **lb: Any
    ) -> AsyncIterator[WorkerProcess]:
        """Run a worker in front of one static node on each of `ports` until the block ends.

        `lb` overrides that section.  Nodes are probed at /healthz only.
        """
        health = {"interval_s": 0.2, "timeout_s": 1.0, "websocket_path": ""}
        section = {"health": health, "drain_s": 0.2} | lb
        nodes = {"local": 0, "static": [f"http://127.0.0.1:{port}" for port in ports]}
        config = Config.model_validate({"secret": SECRET, "redis": "none", "lb": section, "nodes": nodes})
        file = self.directory / "config.resolved.yaml"
        file.write_text(json.dumps(config.dumped()), encoding="utf-8")
        log = self.directory / f"worker-{len(list(self.directory.glob('worker-*.log')))}.log"
        process = await self._started(file, log, index, preexec)
        worker = WorkerProcess(process, self.port, int(self.admin.getsockname()[1]), log)
        try:
            await eventually(lambda: _serves(worker), what="the worker serves")
            yield worker
        except BaseException:
            sys.stderr.write(f"--- the worker said:\n{worker.said()}\n")
            raise
        finally:
            if process.returncode is None:
                worker.kill()
            await process.wait()

    async def _started(
        self, file: Path, log: Path, index: int, preexec: Callable[[], None] | None
    ) -> asyncio.subprocess.Process:
        public, admin = self.public.fileno(), self.admin.fileno()
        options: dict[str, object] = {
            "--config": file,
            "--base": self.directory,
            "--run-dir": self.directory,
            "--index": index,
            "--listen-fd": public,
            "--admin-fd": admin,
        }
        arguments = [str(each) for pair in options.items() for each in pair]
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lb",
                "worker",
                *arguments,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(public, admin),
                preexec_fn=preexec,
            )


def _serves(worker: WorkerProcess) -> bool:
    if worker.process.returncode is not None:
        raise RuntimeError(f"the worker ended with status {worker.process.returncode}: {worker.said()}")
    return " serving" in worker.said()


@asynccontextmanager
async def doors() -> AsyncIterator[Doors]:
    """Open the sockets that a supervisor would hold."""
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="fl-")))
        sockets = [held.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
            each.listen()
            each.setblocking(False)
        yield Doors(directory, *sockets)
