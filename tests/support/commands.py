"""`python -m lb …` as a user types it, run to its end or in the background, in a private runtime directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from tests.support.stack import ROOT


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """Hold a directory for XDG_RUNTIME_DIR: short, as the path of a unix socket may have 107 bytes only."""
    directory = Path(tempfile.mkdtemp(prefix="fl-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def environment(runtime: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(runtime)} | dict(more or {})


def written(directory: Path, config: Mapping[str, Any]) -> Path:
    """Write `config` to a file in `directory`, and return its path."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return file


async def lb(*arguments: object, runtime: Path, cwd: Path = ROOT, within_s: float = 40) -> Ended:
    """Run `python -m lb` with `arguments` to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lb",
        *map(str, arguments),
        cwd=cwd,
        env=environment(runtime),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def background(
    file: Path, runtime: Path, output: int | IO[bytes], more: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m lb --config FILE`, writing to `output`, and end it with the block if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "lb", "--config", str(file)),
        cwd=ROOT,
        env=environment(runtime, more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise
