"""The private directory of one running stack: sockets, the resolved configuration, and small JSON reports.

It has mode 0700, so that only our own user reaches the sockets in it (and the embedded Redis behind one of them).
Reports are how processes of one stack show each other their state without talking: each writes its own file whole, and
whoever is asked reads them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPERVISOR = "supervisor"
"""Report of the supervisor: {"pid", "children": [{"name", "pid", "state", "restarts", "reason"}]}."""

WORKER = "worker-"
"""Prefix of the report of each balancer worker."""


@dataclass(frozen=True)
class RunDir:
    """A run directory that exists."""

    path: Path

    def socket(self, name: str) -> Path:
        """Return the path of the unix socket `name`; a socket's path may have at most 107 bytes (unix(7))."""
        return self.path / f"{name}.sock"

    def publish(self, name: str, report: Mapping[str, Any]) -> None:
        """Replace the report `name` whole: a reader sees the old one or the new one.  Raises OSError (disk full)."""
        draft = self.path / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(report), encoding="utf-8")
        draft.replace(self._file(name))

    def report(self, name: str) -> dict[str, Any] | None:
        """Return the report `name`, or None if there is none."""
        try:
            text = self._file(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        value: dict[str, Any] = json.loads(text)
        return value

    def reports(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return all reports whose name begins with `prefix`."""
        found = {}
        for file in sorted(self.path.glob(f"{prefix}*.json")):
            if (report := self.report(file.stem)) is not None:
                found[file.stem] = report
        return found

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"
