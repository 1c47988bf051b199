"""Listening sockets, and one readable line for each reason why there is none."""

from __future__ import annotations

import os
import socket

import pytest

from cluster.config import Endpoint
from cluster.errors import StartError
from cluster.listening import check_free, listen


def test_it_listens_without_blocking() -> None:
    """On port 0 wherever the system likes."""
    with listen(Endpoint("127.0.0.1", 0), "lb.listen") as listener:
        assert not listener.getblocking()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        socket.create_connection(listener.getsockname()).close()


def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    """`[::]` is what most people mean by "everywhere"."""
    with listen(Endpoint("::", 0), "lb.listen") as listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listener.getsockname()[1])).close()


def test_a_name_is_resolved() -> None:
    """`localhost` is an address, too."""
    with listen(Endpoint("localhost", 0), "lb.listen") as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "lb.listen: 192.0.2.1:0 is not an address of this host"),
        ("no-such-host.invalid", "lb.listen: no-such-host.invalid:0: the host cannot be resolved: "),
        ("x" * 70 + ".invalid", "the host cannot be resolved: "),
    ],
)
def test_a_bad_host_is_one_line(host: str, reason: str) -> None:
    """Which key, which address, what is wrong."""
    with pytest.raises(StartError) as raised:
        listen(Endpoint(host, 0), "lb.listen")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_port_in_use_is_one_line() -> None:
    """Whether it is asked for or only looked at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        for look in (listen, check_free):
            with pytest.raises(StartError) as raised:
                look(endpoint, "lb.admin")
            assert str(raised.value) == f"lb.admin: {endpoint} is in use by another process"


def test_a_free_port_stays_free() -> None:
    """Looking takes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
    check_free(endpoint, "nodes.first_port")
    check_free(endpoint, "nodes.first_port")


def test_a_privileged_port_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user without CAP_NET_BIND_SERVICE meets it; root meets it nowhere, so the system is stood in for."""

    class Forbidden(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(StartError, match=r"lb.listen: 0.0.0.0:80 is not permitted to this user; ports below 1024"):
        listen(Endpoint("0.0.0.0", 80), "lb.listen")
