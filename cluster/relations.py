"""Which keys of the configuration cannot stand together.  Pure: one small rule each, every rule yields its Problems."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from cluster.config import EMBEDDED, NO_REDIS, Config, TlsPair

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the configuration: the path of the key, and one sentence with what is allowed."""

    path: KeyPath
    text: str


def relations(config: Config, unread: Collection[KeyPath] = ()) -> Iterator[Problem]:
    """Yield a Problem for each pair of keys that cannot stand together.

    Keys in `unread` were given, but could not be read: rules that look at them are left out.
    """
    for rule, keys in _RULES.items():
        if not any(_is_within(key, path) for path in unread for key in keys):
            yield from rule(config)


def _is_within(key: str, path: KeyPath) -> bool:
    """Return whether `path` is the key, in it, or around it."""
    parts = tuple(key.split("."))
    shorter = min(len(parts), len(path))
    return parts[:shorter] == path[:shorter]


def _lease_outlasts_heartbeats(config: Config) -> Iterator[Problem]:
    nodes = config.nodes
    if nodes.lease_s <= 3 * nodes.heartbeat_s:
        yield Problem(
            ("nodes", "lease_s"),
            f"a lease of {nodes.lease_s:g} s must outlast three heartbeats of {nodes.heartbeat_s:g} s;"
            f" allowed: more than {3 * nodes.heartbeat_s:g}",
        )


def _limits_outlast_ping(config: Config) -> Iterator[Problem]:
    quiet_s = config.nodes.ping_interval_s + config.nodes.ping_timeout_s
    for key, limit in (("tunnel_idle_s", config.lb.tunnel_idle_s), ("answer_timeout_s", config.lb.answer_timeout_s)):
        if limit and limit <= quiet_s:
            yield Problem(
                ("lb", key),
                f"{limit:g} s would cut clients that are only quiet: ping_interval_s + ping_timeout_s is {quiet_s:g} s;"
                f" allowed: 0 (never) or more than {quiet_s:g}",
            )


def _bodies_hold_messages(config: Config) -> Iterator[Problem]:
    most, message = config.lb.max_body_bytes, config.nodes.max_message_bytes
    if most and most < message:
        yield Problem(
            ("lb", "max_body_bytes"),
            f"{most} bytes would refuse messages that come by long polling: nodes.max_message_bytes is {message};"
            f" allowed: 0 (any) or at least {message}",
        )


def _ejections_grow(config: Config) -> Iterator[Problem]:
    health = config.lb.health
    if health.eject_after and health.most_eject_s < health.eject_s:
        yield Problem(
            ("lb", "health", "most_eject_s"),
            f"{health.most_eject_s:g} s is less than the first ejection takes; allowed: at least eject_s,"
            f" {health.eject_s:g}",
        )


def _cross_site_cookie_is_secure(config: Config) -> Iterator[Problem]:
    if config.lb.cookie.same_site == "none" and not config.lb.cookie.secure and not config.lb.tls.is_on:
        yield Problem(
            ("lb", "cookie", "same_site"),
            "browsers refuse SameSite=None without Secure; allowed: lax, strict, or none with lb.cookie.secure: true"
            " or lb.tls",
        )


def _tls_is_whole(config: Config) -> Iterator[Problem]:
    tls = config.lb.tls
    yield from _pair_is_whole(tls, ("lb", "tls"))
    for number, pair in enumerate(tls.more):
        path = ("lb", "tls", "more", number)
        yield from _pair_is_whole(pair, path)
        if not pair.certificate and not pair.key:
            yield Problem(path, "names no files; allowed: a certificate and its key")
    if tls.more and not tls.certificate and not tls.key:
        yield Problem(
            ("lb", "tls", "more"), "stands beside no lb.tls.certificate; allowed: the first pair there, others here"
        )
    if tls.redirect and not tls.certificate and not tls.key:
        yield Problem(
            ("lb", "tls", "redirect"),
            "leads to https, which nobody speaks here; allowed: empty, or an address with lb.tls.certificate",
        )
    for key, is_set in (("redirect_port", tls.redirect_port), ("challenges", tls.challenges)):
        if is_set and not tls.redirect:
            yield Problem(("lb", "tls", key), "belongs to lb.tls.redirect, which is empty; allowed: with one")


def _pair_is_whole(pair: TlsPair, path: KeyPath) -> Iterator[Problem]:
    if pair.certificate and not pair.key:
        yield Problem(
            (*path, "certificate"),
            "has no key beside it; allowed: none of both, or a key as well (the same file, if it holds both)",
        )
    elif pair.key and not pair.certificate:
        yield Problem((*path, "key"), "has no certificate beside it; allowed: none of both, or a certificate as well")


def _proxies_that_introduce_are_named(config: Config) -> Iterator[Problem]:
    if config.lb.proxy_protocol and not config.lb.trusted_proxies:
        yield Problem(
            ("lb", "proxy_protocol"),
            "true needs to know whose connections begin with a header;"
            " allowed: false, or true with the proxies' networks in lb.trusted_proxies",
        )


def _there_are_nodes_that_hear_each_other(config: Config) -> Iterator[Problem]:
    nodes = config.nodes
    if config.redis != NO_REDIS:
        if not nodes.local and not nodes.static and not nodes.discover:
            yield Problem(
                ("nodes", "discover"),
                "false, nodes.local: 0 and no nodes.static leave nothing to balance; allowed: true, or one of the two",
            )
        return
    if config.nodes.local > 1:
        yield Problem(
            ("redis",),
            f"none would keep the {config.nodes.local} local nodes apart: messages would stay where they are sent;"
            f" allowed: {EMBEDDED}, a URL, or nodes.local of at most 1",
        )
    if not config.nodes.local and not config.nodes.static:
        yield Problem(
            ("nodes", "static"), "redis: none and nodes.local: 0 leave nothing to balance; allowed: at least one URL"
        )


def _ports_do_not_collide(config: Config) -> Iterator[Problem]:
    nodes, lb = config.nodes, config.lb
    if nodes.first_port + nodes.local - 1 > 65535:
        yield Problem(
            ("nodes", "first_port"),
            f"{nodes.local} nodes from port {nodes.first_port} on would pass port 65535;"
            f" allowed: at most {65536 - nodes.local}",
        )
    redirect = lb.tls.redirect
    addresses = {("lb", "listen"): lb.listen, ("lb", "admin"): lb.admin}
    for path, address in (addresses | ({("lb", "tls", "redirect"): redirect} if redirect else {})).items():
        if address.port in config.local_ports:
            yield Problem(
                path,
                f"port {address.port} is a local node's; allowed: outside"
                f" {config.local_ports.start} to {config.local_ports.stop - 1}",
            )
    if lb.listen.port and lb.listen.port == lb.admin.port:
        yield Problem(("lb", "admin"), f"port {lb.admin.port} is lb.listen's too; allowed: any other")
    if redirect and redirect.port and redirect.port in (lb.listen.port, lb.admin.port):
        owner = "lb.listen" if redirect.port == lb.listen.port else "lb.admin"
        yield Problem(("lb", "tls", "redirect"), f"port {redirect.port} is {owner}'s too; allowed: any other")


_RULES: dict[Callable[[Config], Iterator[Problem]], tuple[str, ...]] = {
    _lease_outlasts_heartbeats: ("nodes.lease_s", "nodes.heartbeat_s"),
    _limits_outlast_ping: (
        "lb.tunnel_idle_s",
        "lb.answer_timeout_s",
        "nodes.ping_interval_s",
        "nodes.ping_timeout_s",
    ),
    _bodies_hold_messages: ("lb.max_body_bytes", "nodes.max_message_bytes"),
    _ejections_grow: ("lb.health.eject_s", "lb.health.most_eject_s", "lb.health.eject_after"),
    _cross_site_cookie_is_secure: ("lb.cookie.same_site", "lb.cookie.secure", "lb.tls"),
    _tls_is_whole: ("lb.tls",),
    _proxies_that_introduce_are_named: ("lb.proxy_protocol", "lb.trusted_proxies"),
    _there_are_nodes_that_hear_each_other: ("redis", "nodes.local", "nodes.static", "nodes.discover"),
    _ports_do_not_collide: ("nodes.first_port", "nodes.local", "lb.listen", "lb.admin", "lb.tls.redirect"),
}
"""Each rule, with the keys that it looks at."""
