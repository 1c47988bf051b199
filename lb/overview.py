"""`GET /api/overview`: all that the dashboard shows, in one answer.  No I/O: what is shown are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.member import State
from lb.history import History, Rates
from lb.metrics import Totals
from lb.reports import Stack, Worker


def overview(
    nodes: list[dict[str, Any]], health: Mapping[str, Any], redis: Mapping[str, Any], stack: Stack, history: History
) -> dict[str, Any]:
    """Put together what `nodes_view`, `health_view` and the counters of all workers say."""
    shown = [node | _rates_view(history.rates(node["name"])) for node in nodes]
    return {
        **{key: health[key] for key in ("status", "problems", "warnings", "children")},
        "redis": redis,
        "nodes": shown,
        "totals": _totals_view(shown, stack.totals),
        "workers": [_worker_view(worker) for worker in stack.workers],
        "sample": asdict(history.samples[-1]) if history.samples else None,
    }


def redis_view(
    state: str, address: str, nodes: list[dict[str, Any]], read_s: float | None, bus_s: float | None
) -> dict[str, Any]:
    """Show what this balancer knows of Redis: whether it answers, how fast, and how many nodes announce themselves.

    `read_s` is what reading the registry takes, `bus_s` what a message takes from us through Redis to us.
    """
    up = [node for node in nodes if node["state"] != State.DOWN]
    return {
        "state": state,
        "address": address,
        "read_ms": None if state != "ok" else _ms(read_s),
        "bus_ms": None if state != "ok" else _ms(bus_s),
        "announced": sum(node["incarnation"] is not None for node in up),
        "nodes": len(up),
    }


def history_view(history: History) -> dict[str, Any]:
    """Show the samples as columns, the oldest first: a third of the size of rows."""
    rows = [asdict(sample) for sample in history.samples]
    names = ("at", "connections", "messages_in_per_s", "messages_out_per_s", "loop_lag_ms")
    return {name: [round(row[name], 3) for row in rows] for name in names}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _rates_view(rates: Rates | None) -> dict[str, float | None]:
    return {
        "messages_in_per_s": None if rates is None else round(rates.messages_in, 3),
        "messages_out_per_s": None if rates is None else round(rates.messages_out, 3),
    }


def _totals_view(nodes: list[dict[str, Any]], totals: Totals) -> dict[str, Any]:
    def total(key: str) -> int:
        return sum(node[key] or 0 for node in nodes)

    names = ("connections", "users", "tunnels", "handoffs", "exchanges", "connect_failures")
    return {name: total(name) for name in names} | {"rejected": dict(totals.rejected)}


def _worker_view(worker: Worker) -> dict[str, Any]:
    return {
        "index": worker.index,
        "pid": worker.pid,
        "uptime_s": round(worker.uptime_s, 3),
        "cpu_seconds": round(worker.cpu_seconds, 3),
        "memory_bytes": worker.memory_bytes,
        "loop_lag_ms": round(worker.loop_lag_s * 1000, 3),
    }
