"""Whether the nodes' application can be imported: found out in a process of its own, as it may do anything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

IMPORT_WITHIN_S = 60.0


async def app_problem(file: Path | None, base: Path, within_s: float = IMPORT_WITHIN_S) -> str:
    """Return why `nodes.app` of the configuration `file` cannot be used, or an empty text if it can."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "node", "--check", "--base", str(base)),
        *(("--config", str(file)) if file is not None else ()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within_s):
            _, said = await process.communicate()
    except TimeoutError:
        return f"nodes.app: importing it is not done after {within_s:g} s"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode == 0:
        return ""
    return said.decode(errors="backslashreplace").strip() or f"nodes.app: the check ended with {process.returncode}"
