"""All numbers in Prometheus' text format, put together when somebody asks.  `docs/metrics.md` describes each name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lb.exposition_state import canary, changes, entrance, states, tls
from lb.metrics import REASONS, STATUS_CLASSES
from lb.pool import Node, Pool
from lb.reports import Stack

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(pool: Pool, stack: Stack, redis: str, canary_s: float | None = None) -> bytes:
    """Return the text of `/metrics`: what the nodes say of themselves, and what all workers counted."""
    registry = CollectorRegistry()
    registry.register(_Picture(pool, stack, redis, canary_s))
    return generate_latest(registry)


@dataclass(eq=False)
class _Picture(Collector):
    pool: Pool
    stack: Stack
    redis: str
    canary_s: float | None

    def collect(self) -> Iterator[Metric]:
        yield from states(self.pool)
        nodes = list(self.pool)
        yield from _said_by_nodes(nodes)
        yield from _bus(nodes)
        yield from changes(self.stack)
        yield from entrance(self.stack)
        yield from canary(self.canary_s)
        yield from tls(self.stack)
        yield from _carried(self.stack)
        yield from _took(self.stack)
        yield from _workers(self.stack)
        if self.redis != "none":
            up = GaugeMetricFamily("flotilla_redis_up", "1 while this balancer reaches Redis.")
            up.add_metric([], self.redis == "ok")
            yield up


def _said_by_nodes(nodes: list[Node]) -> Iterator[Metric]:
    info = InfoMetricFamily("flotilla_node", "Facts about the node.", labels=["node"])
    gauges = {
        "connections": GaugeMetricFamily("flotilla_node_connections", "Clients of the node.", labels=["node"]),
        "users": GaugeMetricFamily("flotilla_node_users", "Users registered on the node.", labels=["node"]),
        "memory": GaugeMetricFamily("flotilla_node_memory_bytes", "Resident memory of the node.", labels=["node"]),
        "cpu": GaugeMetricFamily("flotilla_node_cpu_ratio", "CPU of the node, 1 is one core.", labels=["node"]),
        "lag": GaugeMetricFamily("flotilla_node_loop_lag_seconds", "Delay of its event loop.", labels=["node"]),
        "uptime": GaugeMetricFamily("flotilla_node_uptime_seconds", "Since the node started.", labels=["node"]),
    }
    messages = CounterMetricFamily(
        "flotilla_node_messages", "Socket.IO events of the node.", labels=["node", "direction"]
    )
    for node in nodes:
        record = node.record
        facts = {"host": node.host, "port": str(node.port), "path": str(node.path)}
        if record is not None:
            facts |= {"version": record.version, "incarnation": record.incarnation, "pid": str(record.pid)}
            gauges["connections"].add_metric([node.name], record.connections)
            gauges["users"].add_metric([node.name], record.users)
            gauges["memory"].add_metric([node.name], record.memory_bytes)
            gauges["cpu"].add_metric([node.name], record.cpu_percent / 100)
            gauges["lag"].add_metric([node.name], record.loop_lag_ms / 1000)
            gauges["uptime"].add_metric([node.name], record.uptime_s)
            messages.add_metric([node.name, "in"], record.messages_in)
            messages.add_metric([node.name, "out"], record.messages_out)
        info.add_metric([node.name], facts)
    yield info
    yield from gauges.values()
    yield messages


def _bus(nodes: list[Node]) -> Iterator[Metric]:
    messages = CounterMetricFamily("flotilla_bus_messages", "Messages between nodes.", labels=["node", "direction"])
    transferred = CounterMetricFamily("flotilla_bus_bytes", "Bytes of those.", labels=["node", "direction"])
    dropped = CounterMetricFamily("flotilla_bus_dropped", "Messages that other nodes did not get.", labels=["node"])
    outbox = GaugeMetricFamily("flotilla_bus_outbox_bytes", "What waits for Redis.", labels=["node"])
    channels = GaugeMetricFamily("flotilla_bus_subscriptions", "Channels that the node hears.", labels=["node"])
    canary = GaugeMetricFamily("flotilla_bus_canary_seconds", "A message through Redis and back.", labels=["node"])
    lag = GaugeMetricFamily("flotilla_bus_lag_seconds", "From node to node.", labels=["node", "quantile"])
    for node in nodes:
        record = node.record
        if record is None:
            continue
        messages.add_metric([node.name, "published"], record.bus_published)
        messages.add_metric([node.name, "received"], record.bus_received)
        transferred.add_metric([node.name, "published"], record.bus_published_bytes)
        transferred.add_metric([node.name, "received"], record.bus_received_bytes)
        dropped.add_metric([node.name], record.bus_dropped)
        outbox.add_metric([node.name], record.bus_outbox_bytes)
        channels.add_metric([node.name], record.bus_subscriptions)
        canary.add_metric([node.name], record.bus_canary_ms / 1000)
        lag.add_metric([node.name, "0.5"], record.bus_lag_p50_ms / 1000)
        lag.add_metric([node.name, "0.99"], record.bus_lag_p99_ms / 1000)
    yield from (messages, transferred, dropped, outbox, channels, canary, lag)


def _carried(stack: Stack) -> Iterator[Metric]:
    exchanges = CounterMetricFamily(
        "flotilla_exchanges", "HTTP exchanges that the node answered, by class of status.", labels=["node", "class"]
    )
    transferred = CounterMetricFamily("flotilla_tunnel_bytes", "Bytes of ended tunnels.", labels=["node", "direction"])
    opened = GaugeMetricFamily("flotilla_tunnels_open", "WebSockets that the balancer carries now.", labels=["node"])
    failures = CounterMetricFamily(
        "flotilla_connect_failures", "Connections to the node that were refused or late.", labels=["node"]
    )
    tunnels = CounterMetricFamily("flotilla_tunnels", "WebSockets ever carried.", labels=["node"])
    handoffs = CounterMetricFamily("flotilla_handoffs", "WebSockets handed over to the node.", labels=["node"])
    closes = CounterMetricFamily("flotilla_handoff_closes", "Ends of those, by close code.", labels=["node", "code"])
    handed = GaugeMetricFamily("flotilla_handoffs_open", "Those that the node still has.", labels=["node"])
    rejected = CounterMetricFamily("flotilla_rejected", "Requests that the balancer turned away.", labels=["reason"])
    for node, counts in stack.totals.nodes.items():
        for name, count in zip(STATUS_CLASSES, counts.exchanges, strict=True):
            exchanges.add_metric([node, name], count)
        transferred.add_metric([node, "from_client"], counts.bytes_from_client)
        transferred.add_metric([node, "from_node"], counts.bytes_from_node)
        opened.add_metric([node], counts.tunnels_open)
        failures.add_metric([node], counts.connect_failures)
        tunnels.add_metric([node], counts.tunnels)
        handoffs.add_metric([node], counts.handoffs)
        handed.add_metric([node], counts.handoffs_open)
        for code, count in counts.closes.items():
            closes.add_metric([node, code], count)
    # From the start, those that are 0 as well: a rate has something to begin from when the first one comes.
    for reason, count in (dict.fromkeys(REASONS, 0) | stack.totals.rejected).items():
        rejected.add_metric([reason], count)
    yield from (exchanges, transferred, opened, failures, tunnels, handoffs, handed, closes, rejected)


def _took(stack: Stack) -> Iterator[Metric]:
    handshakes = HistogramMetricFamily(
        "flotilla_handshake_seconds", "From a client's coming to its WebSocket at the node.", labels=["node", "path"]
    )
    answers = HistogramMetricFamily(
        "flotilla_answer_seconds", "From an HTTP request to the head of the node's answer.", labels=["node"]
    )
    tunnels = HistogramMetricFamily("flotilla_tunnel_seconds", "Life of ended tunnels.", labels=["node"])
    handoffs = HistogramMetricFamily(
        "flotilla_handoff_seconds", "Life of ended WebSockets that were handed over.", labels=["node"]
    )
    for node, counts in stack.totals.nodes.items():
        for family, labels, histogram in (
            (handshakes, [node, "handoff"], counts.handoff_handshakes),
            (handshakes, [node, "tunnel"], counts.tunnel_handshakes),
            (answers, [node], counts.answers),
            (tunnels, [node], counts.tunnel_life),
            (handoffs, [node], counts.handoff_life),
        ):
            family.add_metric(labels, list(histogram.buckets()), histogram.sum)
    yield from (handshakes, answers, tunnels, handoffs)


def _workers(stack: Stack) -> Iterator[Metric]:
    cpu = CounterMetricFamily("flotilla_worker_cpu_seconds", "CPU time, user and system.", labels=["worker", "pid"])
    memory = GaugeMetricFamily("flotilla_worker_memory_bytes", "Resident memory.", labels=["worker", "pid"])
    lag = GaugeMetricFamily("flotilla_worker_loop_lag_seconds", "Delay of its event loop.", labels=["worker", "pid"])
    uptime = GaugeMetricFamily("flotilla_worker_uptime_seconds", "Since the worker started.", labels=["worker", "pid"])
    for worker in stack.workers:
        labels = [str(worker.index), str(worker.pid)]
        cpu.add_metric(labels, worker.cpu_seconds)
        memory.add_metric(labels, worker.memory_bytes)
        lag.add_metric(labels, worker.loop_lag_s)
        uptime.add_metric(labels, worker.uptime_s)
    yield from (cpu, memory, lag, uptime)
