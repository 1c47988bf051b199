"""`python -m lb status`: asks the admin address of a running stack and prints its nodes as a table."""

from __future__ import annotations

import http.client
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from cluster.config import Config, Endpoint
from cluster.errors import StartError
from cluster.host import reached_at
from cluster.member import State

TIMEOUT_S = 5.0
MOST_BYTES = 16 * 2**20

_COLUMNS = (
    "NODE",
    "ADDRESS",
    "PID",
    "STATE",
    "CLIENTS",
    "USERS",
    "IN",
    "OUT",
    "CPU",
    "MEMORY",
    "LAG",
    "UPTIME",
    "PATH",
)
_RIGHT = frozenset({"PID", "CLIENTS", "USERS", "IN", "OUT", "CPU", "MEMORY", "LAG", "UPTIME"})
_UNKNOWN = "-"
_ALIEN = "what answers at {} (lb.admin) is not Flotilla's admin API; allowed: the address of a running stack"


def show_status(config: Config) -> int:
    """Print the nodes of the stack that answers at `config.lb.admin`, and return 0.

    Raises StartError, one readable line, when nobody does, or something else than a stack.
    """
    nodes, warnings = _ask(Endpoint(reached_at(config.lb.admin.host), config.lb.admin.port), config.lb.admin_token)
    warned = [f"warning: {each}" for each in warnings]
    sys.stdout.write("\n".join([*table(nodes), summary(nodes), *warned]) + "\n")
    return 0


@dataclass(frozen=True)
class Shown:
    """One node as `GET /api/nodes` shows it; None is what nobody knows."""

    name: str
    host: str
    port: int
    pid: int | None
    state: str
    reason: str
    path: str
    adopted: bool
    connections: int
    users: int | None
    messages_in: int | None
    messages_out: int | None
    cpu_percent: float | None
    memory_bytes: int | None
    loop_lag_ms: float | None
    uptime_s: float | None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Shown:
        """Raise KeyError if a field is missing.  Fields that we do not know are a newer stack's, and ignored."""
        values: dict[str, Any] = {}
        for each in fields(cls):
            value = raw[each.name]
            # What a node says of itself must not drive the terminal.
            values[each.name] = _printable(value) if isinstance(value, str) else value
        return cls(**values)

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            str(Endpoint(self.host, self.port)),
            _UNKNOWN if self.pid is None else str(self.pid),
            self.state,
            _number(self.connections),
            _number(self.users),
            _number(self.messages_in),
            _number(self.messages_out),
            _number(self.cpu_percent, "%"),
            _UNKNOWN if self.memory_bytes is None else f"{self.memory_bytes / 2**20:.1f} MiB",
            _number(self.loop_lag_ms, " ms"),
            duration(self.uptime_s),
            self.path,
        )


def table(nodes: Sequence[Shown]) -> list[str]:
    """Return the lines of the table of `nodes`."""
    rows = [_COLUMNS, *(node.cells() for node in nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    # Why a node gets no clients is a sentence, and stands behind the columns.
    reasons = ["", *("" if node.state == State.READY else f"  {node.reason}" for node in nodes)]
    return [(_aligned(row, widths) + reason).rstrip() for row, reason in zip(rows, reasons, strict=True)]


def summary(nodes: Sequence[Shown]) -> str:
    """Return one line that counts nodes by state, and clients; and names nodes that were another supervisor's."""
    states = Counter(node.state for node in nodes)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none"
    clients = sum(node.connections for node in nodes)
    line = f"{_counted(len(nodes), 'node')}: {counted}; {_counted(clients, 'client')}"
    adopted = [node.name for node in nodes if node.adopted]
    return f"{line}; taken over from a supervisor that died: {' '.join(adopted)}" if adopted else line


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(_COLUMNS, row, widths, strict=True)
    )
    return "  ".join(cells)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _number(value: float | None, unit: str = "") -> str:
    return _UNKNOWN if value is None else f"{value:.0f}{unit}"


def duration(seconds: float | None) -> str:
    """Return `seconds` as people say it, in its two largest units: 3d 4h, 2m 5s."""
    if seconds is None:
        return _UNKNOWN
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _ask(address: Endpoint, token: str) -> tuple[list[Shown], list[str]]:
    """Return the nodes and the warnings that the stack at `address` shows.

    Raises StartError, one line, if that is not to be had.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/api/nodes", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES)
    except TimeoutError:
        raise StartError(f"no answer at {address} (lb.admin) within {TIMEOUT_S:g} s") from None
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise StartError(f"nobody answers at {address} (lb.admin): {reason}; is the stack running?") from None
    except http.client.HTTPException:
        raise StartError(_ALIEN.format(address)) from None
    finally:
        connection.close()
    try:
        told = json.loads(body)
        if answer.status in (401, 403):
            raise StartError(f"{address} (lb.admin) does not let us in: {_printable(told['error'])}")
        return [Shown.read(node) for node in told["nodes"]], [_printable(each) for each in told.get("warnings", ())]
    except (ValueError, LookupError, TypeError):
        raise StartError(_ALIEN.format(address)) from None
