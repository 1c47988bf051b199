"""The systemd unit: accepted by systemd where that is installed, and in step with the configuration's defaults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import Config
from tests.docker.files import DOCKER, unit
from tests.support.tools import missing

TEXT = (DOCKER / "flotilla.service").read_text(encoding="utf-8")
SERVICE = {key.removeprefix("Service."): values for key, values in unit(TEXT).items() if key.startswith("Service.")}
PYTHON = "/opt/flotilla/bin/python"


def test_systemd_accepts_it(tmp_path: Path) -> None:
    """No unknown key, no value that systemd would ignore; run with a Python that this machine has."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "install the package systemd")
    copy = tmp_path / "flotilla.service"
    copy.write_text(TEXT.replace(PYTHON, sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_it = [line for line in done.stderr.splitlines() if "flotilla.service" in line]
    assert (done.returncode, about_it) == (0, [])


def test_it_stops_in_order_before_systemd_kills() -> None:
    """Only the supervisor gets SIGTERM, and it has time for both drains."""
    config = Config()
    assert SERVICE["KillMode"] == ["mixed"]
    assert float(SERVICE["TimeoutStopSec"][0]) >= config.lb.drain_s + config.nodes.drain_s + 10


def test_it_is_started_when_the_supervisor_says_that_it_serves() -> None:
    """`systemctl start` returns when clients can connect, and only the supervisor may say so."""
    assert SERVICE["Type"] == ["notify"]
    assert SERVICE["NotifyAccess"] == ["main"]


def test_reload_is_the_signal_that_the_supervisor_knows() -> None:
    """SIGHUP validates, then applies."""
    assert SERVICE["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_a_configuration_that_cannot_be_used_is_not_tried_again() -> None:
    """Exit status 2 ends it; a crash is restarted."""
    assert SERVICE["RestartPreventExitStatus"] == ["2"]
    assert SERVICE["Restart"] == ["on-failure"]


def test_sockets_lie_in_a_private_directory() -> None:
    """systemd makes it for this service alone and removes it afterwards."""
    assert SERVICE["RuntimeDirectoryMode"] == ["0700"]
    assert f"XDG_RUNTIME_DIR=/run/{SERVICE['RuntimeDirectory'][0]}" in SERVICE["Environment"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("LimitNOFILE", "1048576"),
    ],
)
def test_it_is_locked_down(key: str, value: str) -> None:
    """Each of these narrows what a fault in an application could reach."""
    assert SERVICE[key] == [value]
