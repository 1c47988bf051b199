"""Real nodes for a test: as processes of their own, started as a user starts them, or in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cluster.config import Config
from cluster.config_file import Loaded
from node import Server
from node.app import NodeOptions, serve
from node.server import NotInANode
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@dataclass
class NodeProcess:
    """A `python -m node` that serves on `port`; its output goes to `log`."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def healthz(self) -> dict[str, Any]:
        """Return what `/healthz` says, with its HTTP status as `http`."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/healthz") as answer:
            return {**await answer.json(), "http": answer.status}

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()

    def said(self) -> str:
        return _text(self.log)

    async def stop(self, within_s: float = 30) -> int:
        """Stop it as `kill` does, and return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            return await self.process.wait()


async def started(
    *arguments: str, cwd: Path = ROOT, log: Path, pass_fds: Sequence[int] = (), under: Sequence[str] = ()
) -> asyncio.subprocess.Process:
    """Start `python -m node` with these arguments, by the command `under` if one is given, and return its process."""
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *under,
            sys.executable,
            "-m",
            "node",
            *arguments,
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=pass_fds,
        )


async def ended(*arguments: str, cwd: Path = ROOT, log: Path, within_s: float = 30) -> tuple[int, str]:
    """Run `python -m node` until it ends by itself; return its exit status and what it said."""
    process = await started(*arguments, cwd=cwd, log=log)
    try:
        async with asyncio.timeout(within_s):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return status, _text(log)


@asynccontextmanager
async def running_node(
    directory: Path, *arguments: str, cwd: Path = ROOT, under: Sequence[str] = ()
) -> AsyncIterator[NodeProcess]:
    """Run a node on a free port until the block ends; `directory` gets its log."""
    log = _unused(directory)
    process = await started("--port", "0", *arguments, cwd=cwd, log=log, under=under)
    node = NodeProcess(process, 0, log)
    try:
        node.port = await eventually(lambda: _port_in(node), within_s=60, what="the node is ready")
        yield node
    except BaseException:
        sys.stderr.write(f"--- the node said:\n{node.said()}\n")
        raise
    finally:
        try:
            await node.stop()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


async def killed(nodes: Iterable[NodeProcess]) -> None:
    """Kill all of them: to leave one after the other, as a user would have them do, takes its time."""
    for node in nodes:
        node.kill()
    for node in nodes:
        await node.process.wait()


def _unused(directory: Path) -> Path:
    return directory / f"node-{len(list(directory.glob('node-*.log')))}.log"


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _port_in(node: NodeProcess) -> int:
    if node.process.returncode is not None:
        raise RuntimeError(f"the node ended with status {node.process.returncode}: {node.said()}")
    for line in node.said().splitlines():
        if "node ready" in line:
            return int(line.partition(" port=")[2].split()[0])
    return 0


@asynccontextmanager
async def node_here(
    sio: Server, *, redis: str = "none", host: str = "127.0.0.1", run_dir: Path | None = None, **nodes: Any
) -> AsyncIterator[str]:
    """Run the application `sio` as a node in this event loop; gives its URL.  `nodes` overrides that section."""
    timing = {"heartbeat_s": 0.2, "lease_s": 1.0, "drain_s": 1.0}
    config = Config.model_validate({"redis": redis, "nodes": timing | nodes})
    options = NodeOptions(loaded=Loaded(config, Path.cwd(), None), host=host, port=0, run_dir=run_dir)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(options, sio, stopping))
        try:
            yield await eventually(lambda: _url_of(sio, serving), what="the node serves")
        finally:
            stopping.set()


async def _url_of(sio: Server, serving: asyncio.Task[int]) -> str:
    if serving.done():
        serving.result()
    try:
        url = f"http://127.0.0.1:{sio.node.port}"
        async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as answer:
            return url if answer.status == 200 else ""
    except (NotInANode, aiohttp.ClientError) as exc:
        raise ConnectionError(str(exc)) from None
