"""A whole stack, started as a user starts it: `python -m lb --config FILE`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.ports import free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@dataclass
class Stack:
    """A running supervisor with everything below it, and the addresses that a client needs."""

    process: asyncio.subprocess.Process
    config: dict[str, Any]
    log: Path

    @property
    def url(self) -> str:
        scheme = "https" if self.config["lb"].get("tls", {}).get("certificate") else "http"
        return f"{scheme}://{self.config['lb']['listen']}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.config['lb']['admin']}"

    @property
    def ports(self) -> list[int]:
        first = self.config["nodes"]["first_port"]
        return list(range(first, first + self.config["nodes"]["local"]))

    @property
    def node_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    async def get(self, path: str) -> Any:
        """Return the JSON that the admin address answers with."""
        token = self.config["lb"].get("admin_token", "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession() as session, session.get(self.admin_url + path, headers=headers) as answer:
            return await answer.json()

    async def nodes(self) -> list[dict[str, Any]]:
        """Return `/api/nodes`."""
        nodes: list[dict[str, Any]] = (await self.get("/api/nodes"))["nodes"]
        return nodes

    async def ready_nodes(self) -> list[dict[str, Any]]:
        return [node for node in await self.nodes() if node["state"] == "ready"]

    async def node_on(self, port: int) -> dict[str, Any]:
        return next(node for node in await self.nodes() if node["port"] == port)

    async def children(self) -> dict[str, dict[str, Any]]:
        """Return what the supervisor says of its children, by name."""
        return {child["name"]: child for child in (await self.get("/healthz"))["children"]}

    def kill(self, pid: int) -> None:
        """SIGKILL one process of this stack."""
        os.kill(pid, signal.SIGKILL)

    def said(self) -> str:
        """Return everything that the stack has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    async def stop(self, within_s: float = 30) -> int:
        """Stop it as Ctrl-C or `kill` does, and return the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(within_s):
            return await self.process.wait()


def stack_config(nodes: int, **sections: Any) -> dict[str, Any]:
    """Return a configuration with `nodes` local nodes on free ports; `sections` are merged into it, key by key."""
    first = free_ports(nodes + 2)
    config: dict[str, Any] = {
        "lb": {
            "listen": f"127.0.0.1:{first + nodes}",
            "admin": f"127.0.0.1:{first + nodes + 1}",
            "health": {"interval_s": 0.5, "timeout_s": 1.0, "fall": 2},
            "drain_s": 1.0,
        },
        "nodes": {"local": nodes, "first_port": first, "heartbeat_s": 0.3, "lease_s": 1.5, "drain_s": 1.0},
    }
    for section, value in sections.items():
        if isinstance(value, dict):
            config.setdefault(section, {}).update(value)
        else:
            config[section] = value
    return config


@asynccontextmanager
async def running_stack(
    directory: Path,
    nodes: int = 3,
    node_options: Mapping[str, Any] | None = None,
    at_first: int | None = None,
    **sections: Any,
) -> AsyncIterator[Stack]:
    """Run a stack until the block ends; wait first for all its nodes, or `at_first` of them, to be ready.

    `directory` gets its configuration and its log; `node_options` override the section `nodes`.
    Afterwards no process and no file of it may be left.
    """
    config = stack_config(nodes, **sections)
    config["nodes"].update(node_options or {})
    file, log = directory / "config.yaml", directory / "stack.log"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    # Short, because a unix socket's path may have 107 bytes only.
    runtime = Path(tempfile.mkdtemp(prefix="fl-"))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lb",
            "--config",
            str(file),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(runtime)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
    stack = Stack(process, config, log)
    try:
        wanted = nodes if at_first is None else at_first
        await eventually(lambda: _all_ready(stack, wanted), within_s=30, what=f"{wanted} nodes ready")
        yield stack
    except BaseException:
        sys.stderr.write(f"--- the stack said:\n{stack.said()}\n")
        raise
    finally:
        try:
            await stack.stop()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        left = _files_in(runtime)
        shutil.rmtree(runtime)
    assert left == [], "the stack left files behind"


def _files_in(directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()]


async def _all_ready(stack: Stack, nodes: int) -> bool:
    if stack.process.returncode is not None:
        raise RuntimeError(f"the stack ended with status {stack.process.returncode}")
    try:
        return len(await stack.ready_nodes()) >= nodes
    except (aiohttp.ClientError, json.JSONDecodeError, KeyError) as exc:
        raise ConnectionError(str(exc)) from None
