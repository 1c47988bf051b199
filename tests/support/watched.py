"""A stack in the background, seen from the outside: its run directory, its output, its answers."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.commands import background, runtime_directory, written
from tests.support.stack import stack_config
from tests.support.waiting import eventually

UP = "  stop "
"""What the start-up picture ends with."""


@dataclass
class Watched:
    """A stack in the background, seen through its run directory and its output."""

    process: asyncio.subprocess.Process
    config: dict[str, Any]
    runtime: Path
    log: Path

    @property
    def run_dir(self) -> Path:
        (directory,) = (self.runtime / "flotilla").iterdir()
        return directory

    @property
    def children(self) -> dict[str, dict[str, Any]]:
        report = json.loads((self.run_dir / "supervisor.json").read_text(encoding="utf-8"))
        return {child["name"]: child for child in report["children"]}

    @property
    def pids(self) -> dict[str, int]:
        return {name: child["pid"] for name, child in self.children.items()}

    @property
    def url(self) -> str:
        return f"http://{self.config['lb']['listen']}"

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self, part: str) -> list[str]:
        return [line for line in self.said().splitlines() if part in line]

    async def until_said(self, part: str, within_s: float = 30, times: int = 1) -> None:
        await eventually(lambda: len(self.lines(part)) >= times, within_s=within_s, what=f"it says {part!r}")

    def reload(self, **sections: Any) -> None:
        """Change the file, section by section, and send SIGHUP."""
        for section, value in sections.items():
            if isinstance(value, dict):
                self.config.setdefault(section, {}).update(value)
            else:
                self.config[section] = value
        written(self.log.parent, self.config)
        self.process.send_signal(signal.SIGHUP)

    async def ended(self, within_s: float = 30) -> int:
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    def left(self) -> list[str]:
        """Return what stands in the runtime directory, apart from the empty base."""
        return [str(path) for path in (self.runtime / "flotilla").rglob("*")]


def config_of(count: int, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with `count` local nodes on free ports; `sections` are merged into it, key by key."""
    config = stack_config(count)
    for section, value in sections.items():
        if isinstance(value, dict):
            config.setdefault(section, {}).update(value)
        else:
            config[section] = value
    return config


@asynccontextmanager
async def stack(
    directory: Path, count: int = 1, runtime: Path | None = None, **sections: Any
) -> AsyncIterator[Watched]:
    """Run a stack of `count` nodes until the block ends; wait for its start-up picture first."""
    with runtime_directory() as own:
        async with starting(directory, runtime or own, config_of(count, sections)) as watched:
            await watched.until_said(UP)
            yield watched


@asynccontextmanager
async def starting(directory: Path, runtime: Path, config: dict[str, Any]) -> AsyncIterator[Watched]:
    """Run the stack of `config` until the block ends; what it says is added to what others said in `directory`."""
    log = directory / "stack.log"
    with log.open("ab") as output:
        async with background(written(directory, config), runtime, output) as process:
            try:
                yield Watched(process, config, runtime, log)
            except BaseException:
                sys.stderr.write(f"--- the stack said:\n{log.read_text(encoding='utf-8', errors='replace')}\n")
                raise


async def status_of(url: str, trust: ssl.SSLContext | bool = True) -> int:
    """Return the status that `url` answers with."""
    async with aiohttp.ClientSession() as session, session.get(url, ssl=trust) as answer:
        return answer.status


async def answers(url: str) -> bool:
    """Return whether `url` answers 200."""
    try:
        return await status_of(url) == 200
    except aiohttp.ClientError:
        return False


async def refuses(url: str) -> bool:
    """Return whether nobody listens there."""
    try:
        await status_of(url)
    except aiohttp.ClientConnectorError:
        return True
    return False
