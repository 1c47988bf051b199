"""The deployment files, parsed: just enough of the Dockerfile's, systemd's and compose's syntax for their rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile: its keyword in upper case, and its arguments with continuation lines joined."""

    keyword: str
    arguments: str

    @property
    def argv(self) -> list[str]:
        """The exec form.  Raises AssertionError for the shell form."""
        form = self.arguments[self.arguments.find("[") :] if "[" in self.arguments else self.arguments
        try:
            value = json.loads(form)
        except ValueError:
            raise AssertionError(f"{self.keyword} {self.arguments} is in shell form") from None
        assert isinstance(value, list)
        return value


def stages(text: str) -> list[list[Instruction]]:
    """Return the instructions of each stage of a Dockerfile."""
    found: list[list[Instruction]] = []
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, arguments = line.strip().partition(" ")
        if keyword.upper() == "FROM":
            found.append([])
        found[-1].append(Instruction(keyword.upper(), arguments.strip()))
    return found


def compose(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the compose file with merge keys resolved and `${VAR:-default}` read from `environ`."""
    loaded = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    interpolated = _interpolated(loaded, environ or {})
    assert isinstance(interpolated, dict)
    return interpolated


def _interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    # As compose does it: in values that were parsed already, so that a password cannot become a number or a list.
    if isinstance(value, dict):
        return {key: _interpolated(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, environ) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: environ.get(match["name"]) or match["default"], value)
    return value


def variables(text: str) -> set[str]:
    """Return the names of all `${VAR}` in `text`."""
    return {match["name"] for match in _VARIABLE.finditer(text)}


def unit(text: str) -> dict[str, list[str]]:
    """Return the settings of a systemd unit, each as `Section.Key` with all of its values in order."""
    settings: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(f"{section}.{key}", []).append(value)
    return settings
