"""Start the proxies that `benchmarks/http.py` compares, one worker each, and the backend that all of them have."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import peers
from benchmarks.peers import Peer, free_port, running

NGINX, HAPROXY, FLOTILLA, NAIVE, NAIVE_ASYNCIO = "nginx", "haproxy", "flotilla", "naive", "naive on asyncio"

Programs = Mapping[str, str]
"""The programs of nginx and HAProxy, by their names; without what is not installed."""


@contextmanager
def backend(directory: Path) -> Iterator[Peer]:
    """Run what answers behind all proxies."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.web.backend", str(port)]
    with running("backend", command, port, directory) as peer:
        yield peer


def proxy(name: str, directory: Path, programs: Programs, behind: Peer) -> AbstractContextManager[Peer]:
    """Return the proxy of that name in front of `behind`, to be started."""
    start: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
        NGINX: lambda: _nginx(directory, programs[NGINX], behind),
        HAPROXY: lambda: _haproxy(directory, programs[HAPROXY], behind),
        FLOTILLA: lambda: _flotilla(directory, behind),
        NAIVE: lambda: _naive(NAIVE, directory, behind),
        NAIVE_ASYNCIO: lambda: _naive(NAIVE_ASYNCIO, directory, behind, "asyncio"),
    }
    return start[name]()


@contextmanager
def _nginx(directory: Path, program: str, behind: Peer) -> Iterator[Peer]:
    port = free_port()
    prefix = directory / "nginx"
    prefix.mkdir()
    config = prefix / "nginx.conf"
    config.write_text(nginx_config(port, behind.port), encoding="utf-8")
    command = [program, "-p", str(prefix), "-e", str(prefix / "error.log"), "-c", str(config)]
    with running(NGINX, command, port, prefix) as peer:
        yield peer
    shutil.rmtree(prefix)


def nginx_config(port: int, backend_port: int) -> str:
    """Return an nginx configuration: one worker, connections kept on both sides, bodies streamed and not stored."""
    return f"""\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream backend {{ server 127.0.0.1:{backend_port}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        client_max_body_size 0;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""


@contextmanager
def _haproxy(directory: Path, program: str, behind: Peer) -> Iterator[Peer]:
    port = free_port()
    base = directory / "haproxy"
    base.mkdir()
    config = base / "haproxy.cfg"
    config.write_text(haproxy_config(port, behind.port), encoding="utf-8")
    with running(HAPROXY, [program, "-db", "-q", "-f", str(config)], port, base) as peer:
        yield peer
    shutil.rmtree(base)


def haproxy_config(port: int, backend_port: int) -> str:
    """Return a HAProxy configuration: one thread, connections kept on both sides, no logs."""
    return f"""\
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 3s
    timeout client 1h
    timeout server 1h
frontend public
    bind 127.0.0.1:{port} backlog 4096
    default_backend servers
backend servers
    server backend 127.0.0.1:{backend_port}
"""


@contextmanager
def _flotilla(directory: Path, behind: Peer) -> Iterator[Peer]:
    with peers.flotilla(directory, behind) as peer:
        yield replace(peer, name=FLOTILLA)


@contextmanager
def _naive(name: str, directory: Path, behind: Peer, *more: str) -> Iterator[Peer]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.web.naive", str(port), str(behind.port), *more]
    with running(name, command, port, directory) as peer:
        yield peer
