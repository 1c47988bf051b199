"""The part of `/metrics` that says in what state nodes are, and how new clients come in; see lb/exposition.py."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cluster.member import State
from lb.pool import Pool
from lb.reports import Stack


def states(pool: Pool) -> Iterator[Metric]:
    state = GaugeMetricFamily("flotilla_node_state", "1 for the state that the node is in.", labels=["node", "state"])
    degraded = GaugeMetricFamily(
        "flotilla_node_degraded", "1 while the node says that it does not reach Redis.", labels=["node"]
    )
    for node in pool:
        for each in State:
            state.add_metric([node.name, each], node.state is each)
        degraded.add_metric([node.name], node.degraded)
    panic = GaugeMetricFamily("flotilla_panic", "1 while nodes that are not well get clients: too few are well.")
    panic.add_metric([], pool.in_panic)
    yield from (state, degraded, panic)


def changes(stack: Stack) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "flotilla_node_changes", "Changes of the node's state, by the one that it came to.", labels=["node", "state"]
    )
    for node, counts in stack.totals.nodes.items():
        for state in State:
            family.add_metric([node, state], getattr(counts, f"became_{state}"))
    yield family


def entrance(stack: Stack) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("flotilla_handshakes_waiting", "New clients that wait for their turn.")
    waiting.add_metric([], sum(worker.waiting for worker in stack.workers))
    share = GaugeMetricFamily(
        "flotilla_hash_key_share_ratio", "Share of the clients placed by address that have one and the same."
    )
    share.add_metric([], max((worker.hash_share for worker in stack.workers), default=0.0))
    yield from (waiting, share)


def tls(stack: Stack) -> Iterator[Metric]:
    handshakes = CounterMetricFamily("flotilla_tls_handshakes", "TLS handshakes that succeeded.", labels=["kind"])
    for kind, count in stack.totals.tls.items():
        handshakes.add_metric([kind], count)
    redirects = CounterMetricFamily("flotilla_redirects", "Requests in plain HTTP that were sent to https.")
    redirects.add_metric([], stack.totals.redirects)
    unknown = CounterMetricFamily("flotilla_tls_unknown_names", "TLS handshakes for a name that no certificate has.")
    unknown.add_metric([], stack.totals.unknown_names)
    expires = GaugeMetricFamily(
        "flotilla_certificate_expiry_timestamp_seconds", "When the certificate in use ends.", labels=["certificate"]
    )
    refused = GaugeMetricFamily(
        "flotilla_certificate_refused",
        "1 while the files hold what cannot be used, and the one before goes on.",
        labels=["certificate"],
    )
    in_use = [each for worker in stack.workers for each in worker.certificates]
    for file in dict.fromkeys(each.file for each in in_use):
        expires.add_metric([file], min(each.expires for each in in_use if each.file == file))
        refused.add_metric([file], any(each.refused for each in in_use if each.file == file))
    if in_use:
        yield from (handshakes, unknown, redirects, expires, refused)


def canary(seconds: float | None) -> Iterator[Metric]:
    if seconds is not None:
        family = GaugeMetricFamily("flotilla_redis_canary_seconds", "A message from us through Redis to us.")
        family.add_metric([], seconds)
        yield family
