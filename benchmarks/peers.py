"""Start the echo backend, nginx and Flotilla on loopback, each with one worker, and end them again.

Everything lives in one temporary directory and in processes that we started ourselves; an nginx that this machine may
run already is never touched.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, BenchmarkError

START_S = 20.0
STOP_S = 15.0

ANY_PACE = 1_000_000
"""New clients a second: not 0, so that what pacing costs is measured, and nobody waits."""
POLL_S = 0.02


@dataclass(frozen=True)
class Peer:
    """Something that echoes WebSocket messages on a port of loopback; `pid` and its descendants do the work.

    `node_pid` is the node behind it, where that belongs to what is measured; it may be one of those descendants.
    """

    name: str
    port: int
    pid: int
    path: str = "/"
    node_pid: int | None = None


@contextmanager
def echo_backend(directory: Path, wsecho: str | None) -> Iterator[Peer]:
    """Run the server behind the balancers: ours, or the `wsecho` program that is given."""
    port = free_port()
    command = [wsecho, str(port)] if wsecho else [sys.executable, "-m", "benchmarks.echo", str(port)]
    with running("echo", command, port, directory) as peer:
        yield peer


@contextmanager
def nginx(
    directory: Path,
    program: str,
    backend: Peer,
    connections: int,
    buffer_kib: int = 0,
    more_backends: Sequence[Peer] = (),
) -> Iterator[Peer]:
    """Run nginx as its manual configures it for WebSockets, in front of `backend`; of several by `ip_hash`.

    `buffer_kib` is the size of the buffers through which it passes bytes, two a connection; 0: its default, a page.
    """
    port = free_port()
    prefix = directory / "nginx"
    prefix.mkdir()
    config = prefix / "nginx.conf"
    more_ports = [each.port for each in more_backends]
    config.write_text(nginx_config(port, backend.port, connections, buffer_kib, more_ports), encoding="utf-8")
    # `-e`: before it has read its configuration nginx would write to its built-in log, which may be another's.
    command = [program, "-p", str(prefix), "-e", str(prefix / "error.log"), "-c", str(config)]
    with running("nginx", command, port, prefix) as peer:
        yield peer
    shutil.rmtree(prefix)


def nginx_config(
    port: int, backend_port: int, connections: int, buffer_kib: int, more_ports: Sequence[int] = ()
) -> str:
    """Return an nginx configuration: one worker, no logs, no buffering, quiet WebSockets live."""
    servers = "".join(f"server 127.0.0.1:{each}; " for each in (backend_port, *more_ports))
    choice = "ip_hash; " if more_ports else ""
    # Each tunnel takes two connections, and nginx closes idle ones when less than a sixteenth of its table is free.
    buffers = f"proxy_buffer_size {buffer_kib}k; proxy_buffers 8 {buffer_kib}k;" if buffer_kib else ""
    return f"""\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections {3 * connections + 100}; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream backend {{ {choice}{servers}keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off; {buffers}
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"""


@contextmanager
def flotilla(directory: Path, backend: Peer) -> Iterator[Peer]:
    """Run our balancer in front of `backend`, to which it carries bytes: as `python -m lb` does for anybody."""
    port = free_port()
    base = directory / "flotilla"
    base.mkdir()
    config = base / "config.yaml"
    config.write_text(flotilla_config(port, free_port(), backend.port), encoding="utf-8")
    with running("tunnel", [sys.executable, "-m", "lb", "--config", str(config)], port, base) as peer:
        yield peer
    shutil.rmtree(base)


def flotilla_config(port: int, admin_port: int, backend_port: int) -> str:
    """Return a configuration of ours: one worker, no Redis, one static node, probed over HTTP."""
    sections = {
        "redis": "none",
        "lb": {
            "listen": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{admin_port}",
            "workers": 1,
            "handshakes_per_s": ANY_PACE,
            "health": {"http_path": "/", "websocket_path": ""},
        },
        "nodes": {
            "local": 0,
            "discover": False,
            "static": [f"http://127.0.0.1:{backend_port}"],
            "handshakes_per_s": ANY_PACE,
        },
        "log": {"level": "warning"},
    }
    return json.dumps(sections, indent=2)  # JSON is YAML


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """Return the environment in which a process of this checkout finds its modules, wherever it runs."""
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put off SIGINT and SIGTERM until the block has ended: between starting and keeping a process nothing may fall."""
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    answers: Callable[[], bool] | None = None,
) -> Iterator[Peer]:
    """Run `command` until the block ends.  Raises BenchmarkError unless it answers on `port` in time.

    `answers` asks it otherwise than by HTTP.
    """
    output = directory / f"{name}.output"
    with output.open("wb") as sink, ExitStack() as stack:
        with undisturbed():
            process = stack.enter_context(_ended(_start(command, sink.fileno(), directory)))
        _await_answer(name, process, port, answers, output)
        yield Peer(name, port, process.pid)


def _start(command: Sequence[str], sink: int, directory: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            # Ctrl-C on the terminal must not reach it before we have read its last figures.
            start_new_session=True,
        )
    except OSError as exc:
        raise BenchmarkError(f"{command[0]} cannot be started: {exc.strerror}") from None


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        with undisturbed():
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                # Its session is ours alone, so this cannot hit anybody else.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _await_answer(
    name: str, process: subprocess.Popen[bytes], port: int, answers: Callable[[], bool] | None, output: Path
) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (status := process.poll()) is not None:
            raise BenchmarkError(f"{name} ended with status {status}:\n{_last_lines(output)}")
        if answers() if answers else _answers(port):
            return
        time.sleep(POLL_S)
    wanted = "" if answers else " with 200"
    raise BenchmarkError(f"{name} does not answer{wanted} after {START_S:g} s:\n{_last_lines(output)}")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_lines(output: Path) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
