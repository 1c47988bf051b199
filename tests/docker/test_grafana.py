"""docker/grafana.json, alerts.yml and prometheus.yml: what they ask for is what a running stack answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.files import DOCKER
from tests.support.balancer import upgrade_request
from tests.support.certificates import Certificates
from tests.support.stack import Stack, running_stack
from tests.support.waiting import eventually

DASHBOARD = json.loads(DOCKER.joinpath("grafana.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load(DOCKER.joinpath("alerts.yml").read_text(encoding="utf-8"))
SCRAPE = yaml.safe_load(DOCKER.joinpath("prometheus.yml").read_text(encoding="utf-8"))

OF_PROMETHEUS = {"up": {"job", "instance"}}
ADDED_BY_SCRAPING = {"job", "instance"}


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> Iterator[str]:
    """Yield every query of the dashboard and of the alerts."""
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query")
    yield from alerting()


def alerting() -> Iterator[str]:
    """Yield every query of the alerts."""
    yield from (rule["expr"] for group in ALERTS["groups"] for rule in group["rules"])


def asked(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric that a query names, and the labels that it asks of it."""
    plain = re.sub(r'"[^"]*"', '""', query)
    labels = {name.strip() for found in re.findall(r"by \(([^)]*)\)", plain) for name in found.split(",")}
    labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", plain))
    for name, matchers in re.findall(
        r"\b([a-z_]{2,})\b(?:\{([^}]*)\})?(?=[\[{)\s,]|$)", re.sub(r"by \([^)]*\)", "", plain)
    ):
        if name.startswith("flotilla_") or name in OF_PROMETHEUS:
            yield name, labels | set(re.findall(r"(\w+)\s*(?:=~|!=|=)", matchers))


async def measured(stack: Stack) -> dict[str, set[str]]:
    """Return each metric that the stack answers with, and all labels that it has."""
    async with aiohttp.ClientSession() as session, session.get(f"{stack.admin_url}/metrics") as answer:
        text = await answer.text()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def use(stack: Stack) -> None:
    """Let one of everything happen: a page, a WebSocket that comes and goes, a request that is refused."""
    host, _, port = stack.config["lb"]["listen"].partition(":")
    for request in (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await reader.read()
        writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(upgrade_request("/socket.io/?EIO=4&transport=websocket"))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


def test_every_metric_and_label_that_is_asked_for_is_in_a_real_answer(tmp_path: Path) -> None:
    """A panel that stays empty for ever looks like a system at rest."""

    async def main() -> None:
        async with running_stack(tmp_path, nodes=1) as stack:
            await use(stack)
            await eventually(lambda: _has(stack, "flotilla_rejected_total"), what="what was refused is counted")
            await eventually(lambda: _has(stack, "flotilla_handoff_closes_total"), what="who went is counted")
            found = await measured(stack)
        directory = tmp_path / "tls"
        directory.mkdir()
        async with running_stack(directory, nodes=1, lb={"tls": Certificates(directory).section}) as stack:
            found = await measured(stack) | found
        missing = []
        for query in queries():
            names = list(asked(query))
            assert names, f"no metric found in {query}"
            for name, labels in names:
                has = (found | OF_PROMETHEUS).get(name)
                if has is None or labels - has - ADDED_BY_SCRAPING:
                    missing.append((query, name, sorted(labels)))
        assert missing == []

    asyncio.run(main())


async def _has(stack: Stack, name: str) -> bool:
    return name in await measured(stack)


def test_the_queries_are_all_understood() -> None:
    """By the test above: each metric once, with the labels that it is asked for."""
    query = 'sum by (le, node) (rate(flotilla_a_bucket{node=~"$node", x!="y"}[5m])) / sum(flotilla_b) > 0'
    assert list(asked(query)) == [
        ("flotilla_a_bucket", {"le", "node", "x"}),
        ("flotilla_b", {"le", "node"}),
    ]
    assert list(asked("label_values(flotilla_node_info, node)")) == [("flotilla_node_info", {"node"})]
    assert list(asked('up{job="flotilla"} == 0')) == [("up", {"job"})]


def test_panels_do_not_overlap_and_have_what_grafana_needs() -> None:
    """Ids of their own, a place in the 24 columns, the chosen data source."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert panel["title"]


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    """At three in the morning."""
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "warning")
        assert rule["annotations"]["summary"]
        labels = {label for _, names in asked(rule["expr"]) for label in names} | ADDED_BY_SCRAPING
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


def test_prometheus_scrapes_what_compose_runs() -> None:
    """The service and the port of the admin address; the rules lie beside it."""
    compose = yaml.safe_load(DOCKER.joinpath("compose.yaml").read_text(encoding="utf-8"))
    [job] = SCRAPE["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    service, _, port = target.partition(":")
    assert service in compose["services"]
    assert f":{port}" in compose["services"][service]["environment"]["FLOTILLA_ADMIN"]
    assert all(DOCKER.joinpath(name).is_file() for name in SCRAPE["rule_files"])
