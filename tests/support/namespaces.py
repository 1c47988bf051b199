"""Hosts of a test's own: network namespaces, each at the end of a cable that can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count

import pytest

_NUMBERS = count()
"""None is used twice: a namespace's end takes its time."""


@dataclass(frozen=True)
class Namespace:
    """A host that this one reaches at `address`, and which reaches this one at `gateway`."""

    name: str
    address: str
    gateway: str

    @property
    def under(self) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self.name)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Pull its cable: what is sent either way is lost, and nobody is told."""
        with self._while("ip", "link", "set", "eth0", begins=("down",), ends=("up",)):
            yield

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """Let it hear this host, which does not hear it."""
        with self._while("ip", "route", begins=("add", "blackhole", self.gateway), ends=("del", self.gateway)):
            yield

    @contextmanager
    def losing(self, share: float) -> Iterator[None]:
        """Lose that share of the packets that come in there, by chance."""
        rule = ("INPUT", "-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        with self._while("iptables", begins=("-A", *rule), ends=("-D", *rule)):
            yield

    @contextmanager
    def _while(self, *command: str, begins: tuple[str, ...], ends: tuple[str, ...]) -> Iterator[None]:
        _run(*self.under, *command, *begins)
        try:
            yield
        finally:
            _run(*self.under, *command, *ends)


def _run(*command: str) -> None:
    """Run a command.  Raises AssertionError with what it said."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr.strip()}"


@contextmanager
def _namespace() -> Iterator[Namespace]:
    number = next(_NUMBERS) % 64
    name, device = f"fl-{os.getpid()}-{number}", f"fl{os.getpid() % 10**6}x{number}"
    # RFC 2544 sets 198.18.0.0/15 aside for tests of networks.  Each cable is a network of two addresses.
    net, host = 18 + os.getpid() // 256 % 2, 4 * number
    prefix = f"198.{net}.{os.getpid() % 256}"
    made = Namespace(name, address=f"{prefix}.{host + 2}", gateway=f"{prefix}.{host + 1}")
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "addr", "add", f"{made.gateway}/30", "dev", device)
        _run("ip", "link", "set", device, "up")
        _run(*made.under, "ip", "addr", "add", f"{made.address}/30", "dev", "eth0")
        _run(*made.under, "ip", "link", "set", "eth0", "up")
        _run(*made.under, "ip", "link", "set", "lo", "up")
        yield made
    finally:
        _run("ip", "netns", "del", name)  # the cable goes with it


@contextmanager
def namespaces(number: int) -> Iterator[list[Namespace]]:
    """Make so many; skip the test where that is not allowed, in CI too: a container may not give it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the tool `ip` (iproute2)")
    with ExitStack() as held:
        try:
            made = [held.enter_context(_namespace()) for _ in range(number)]
        except AssertionError as exc:
            pytest.skip(f"network namespaces cannot be made here: {exc}")
        yield made


def need_loss() -> None:
    """Skip the test, in CI too, where the kernel or the tool to lose packets is missing."""
    with namespaces(1) as (one,):
        try:
            with one.losing(0.5):
                return
        except (AssertionError, FileNotFoundError) as exc:
            pytest.skip(f"packets cannot be lost here: {exc}")
