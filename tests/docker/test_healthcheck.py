"""The image's health check tells sick from well, and says why."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import cast

import pytest

from tests.docker.files import DOCKER
from tests.support.ports import free_port

SCRIPT = DOCKER / "healthcheck.py"
verdict = cast(Callable[[str, float], tuple[int, str]], runpy.run_path(str(SCRIPT))["verdict"])


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Run an HTTP server that answers /healthz so; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/healthz"
        finally:
            server.shutdown()
            thread.join()


def test_a_200_is_healthy() -> None:
    """Run as the image runs it: isolated, without site packages, and with a proxy in the environment."""
    with answering(200, b'{"status": "ok"}') as url:
        done = subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT],
            env=os.environ | {"FLOTILLA_HEALTH_URL": url, "http_proxy": "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"status": "ok"}\n', "")


def test_a_503_is_not_and_its_reason_is_shown() -> None:
    """A draining node says so with 503."""
    with answering(503, b'{"state": "draining"}') as url:
        status, text = verdict(url, 2.0)
    assert status == 1
    assert text == '503 Service Unavailable: {"state": "draining"}'


def test_nobody_listening_is_not() -> None:
    """Refused."""
    status, text = verdict(f"http://127.0.0.1:{free_port()}/healthz", 2.0)
    assert status == 1
    assert "refused" in text


@pytest.mark.parametrize("said", [b"", b"gibberish\r\n\r\n"])
def test_a_peer_that_talks_no_http_is_not(said: bytes) -> None:
    """It closes at once, or says something else."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(4096)
            client.sendall(said)
            client.close()

        thread = Thread(target=answer)
        thread.start()
        status, text = verdict(f"http://127.0.0.1:{server.getsockname()[1]}/healthz", 2.0)
        thread.join()
    assert status == 1
    assert "no answer from" in text


def test_silence_is_not() -> None:
    """A process that accepts and never answers is sick; the check ends by itself."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        status, text = verdict(f"http://127.0.0.1:{server.getsockname()[1]}/healthz", 0.1)
    assert status == 1
    assert "timed out" in text


def test_a_url_that_is_none_is_not() -> None:
    """A mistake in the variable is told, not traced back."""
    assert verdict("healthz", 0.1)[0] == 1
