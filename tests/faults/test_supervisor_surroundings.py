"""What a supervisor runs in: its output, its terminal, systemd, and no Redis at all."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import background, environment, runtime_directory, written
from tests.support.stack import ROOT, stack_config
from tests.support.waiting import eventually
from tests.support.watched import answers, config_of, stack, starting


def test_closed_and_full_outputs_cost_lines_and_nothing_else(tmp_path: Path) -> None:
    """Whoever read our output has gone: the stack serves on, and stops in order."""

    async def main() -> None:
        config = stack_config(1)
        reading, writing = os.pipe()
        with runtime_directory() as runtime:
            async with background(written(tmp_path, config), runtime, writing) as process:
                os.close(writing)
                os.close(reading)
                url = f"http://{config['lb']['listen']}"
                await eventually(lambda: answers(url), within_s=30)
                process.terminate()
                async with asyncio.timeout(30):
                    assert await process.wait() == 0
            assert [*(runtime / "flotilla").iterdir()] == []

    asyncio.run(main())


def test_json_logs_are_json_line_by_line(tmp_path: Path) -> None:
    """Also what programs print that know nothing of our form."""

    async def main() -> None:
        app = "from node import Server\nprint('plain words')\nsio = Server()\n"
        (tmp_path / "talker.py").write_text(app, encoding="utf-8")
        config = config_of(1, {"nodes": {"app": "talker:sio"}, "log": {"format": "json"}})
        with runtime_directory() as runtime:
            async with starting(tmp_path, runtime, config) as watched:
                await watched.until_said('"message":"up"')
            lines = [json.loads(line) for line in watched.said().splitlines()]
        node = f"n{config['nodes']['first_port']}"
        assert {"supervisor", "worker-0", node} <= {line["process"] for line in lines}
        assert [line["process"] for line in lines if line["message"] == "plain words"] == [node]

    asyncio.run(main())


def test_without_redis_and_nodes_it_balances_any_server(tmp_path: Path) -> None:
    """`redis: none`, `nodes.local: 0`, a static list, two workers: nothing else runs."""

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(hello, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config: dict[str, Any] = {
            "redis": "none",
            "nodes": {"local": 0, "static": [f"http://127.0.0.1:{port}"]},
            "lb": {"workers": 2, "health": {"websocket_path": "", "http_path": "/"}},
        }
        async with server, stack(tmp_path, count=0, **config) as watched:
            assert set(watched.pids) == {"worker-0", "worker-1"}
            await eventually(lambda: answers(watched.url))

    asyncio.run(main())


def test_systemd_is_told_when_it_serves_and_when_it_stops(tmp_path: Path) -> None:
    """Type=notify: READY=1 only when everything is ready."""

    async def main() -> None:
        with runtime_directory() as runtime, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(runtime / "notify"))
            listener.setblocking(False)
            loop = asyncio.get_running_loop()
            more = {"NOTIFY_SOCKET": str(runtime / "notify")}
            async with background(
                written(tmp_path, stack_config(1)), runtime, asyncio.subprocess.DEVNULL, more
            ) as process:
                async with asyncio.timeout(30):
                    assert await loop.sock_recv(listener, 100) == b"READY=1"
                process.terminate()
                async with asyncio.timeout(30):
                    assert await loop.sock_recv(listener, 100) == b"STOPPING=1"
                    await process.wait()

    asyncio.run(main())


def test_a_closed_terminal_stops_it_but_sighup_from_an_operator_reloads(tmp_path: Path) -> None:
    """Both are SIGHUP; the one comes with a terminal that is gone."""

    async def main() -> None:
        config = stack_config(1)
        file = written(tmp_path, config)
        with runtime_directory() as runtime:
            pid, terminal = pty.fork()
            if pid == 0:
                os.chdir(ROOT)
                os.execve(sys.executable, [sys.executable, "-m", "lb", "--config", str(file)], environment(runtime))
            reading = asyncio.get_running_loop().run_in_executor(None, _read_until, terminal, "stop")
            await reading
            os.kill(pid, signal.SIGHUP)
            await asyncio.get_running_loop().run_in_executor(None, _read_until, terminal, "unchanged")
            os.close(terminal)
            async with asyncio.timeout(30):
                _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert [*(runtime / "flotilla").iterdir()] == []

    asyncio.run(main())


def _read_until(fd: int, word: str) -> None:
    said = ""
    while word not in said:
        said += os.read(fd, 4096).decode(errors="replace")
