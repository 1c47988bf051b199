"""docker/prometheus.yml, alerts.yml and grafana.json, held against the real Prometheus."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.docker.files import DOCKER
from tests.docker.test_grafana import SCRAPE, alerting, queries, use
from tests.support.ports import free_port
from tests.support.stack import Stack, running_stack
from tests.support.tools import need_prometheus
from tests.support.waiting import eventually

CASES = Path(__file__).parent / "alerts.test.yml"

OF_GRAFANA = {"$__rate_interval": "1m", "$node": ".*"}
"""What Grafana puts in before it asks."""

NOT_YET = "flotilla_handoff_closes_total"
"""Counts what has not happened before the last look."""


def checked(promtool: str, *words: str) -> None:
    ended = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_takes_the_files_and_each_alert_fires_when_it_should() -> None:
    """And only then; tests/docker/alerts.test.yml has the cases."""
    _, promtool = need_prometheus()
    checked(promtool, "check", "config", str(DOCKER / "prometheus.yml"))
    checked(promtool, "check", "rules", str(DOCKER / "alerts.yml"))
    checked(promtool, "test", "rules", str(CASES))
    alerts = yaml.safe_load((DOCKER / "alerts.yml").read_text(encoding="utf-8"))
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    fired = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == names


@asynccontextmanager
async def scraping(stack: Stack, directory: Path) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes `stack`; gives the address of its API."""
    prometheus, _ = need_prometheus()
    config = dict(SCRAPE, rule_files=[str(DOCKER / "alerts.yml")])
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [stack.config["lb"]["admin"]]}]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        prometheus,
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'series'}",
        f"--web.listen-address={address}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        await process.wait()


async def answered(api: str, query: str) -> list[Any]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{api}/query", params={"query": query}) as answer:
            said = await answer.json()
    except (aiohttp.ClientConnectorError, aiohttp.ContentTypeError) as exc:  # it is starting
        raise ConnectionError(str(exc)) from None
    assert said["status"] == "success", f"{query}: {said.get('error')}"
    result: list[Any] = said["data"]["result"]
    return result


def test_a_real_prometheus_answers_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Each is valid, and has series, as seen after a little traffic."""
    need_prometheus()

    async def main() -> None:
        async with running_stack(tmp_path, nodes=1) as stack, scraping(stack, tmp_path) as api:
            await eventually(lambda: _scraped(api, 1))
            await use(stack)
            scrapes = await _scrapes(api)
            # A rate needs two values.
            await eventually(lambda: _scraped(api, scrapes + 3))
            empty = []
            for query in queries():
                if query.startswith("label_values("):
                    continue  # Grafana's own
                filled = query
                for variable, value in OF_GRAFANA.items():
                    filled = filled.replace(variable, value)
                # An alert that does not fire has no answer.
                found = await answered(api, filled)
                if not found and query not in set(alerting()) and NOT_YET not in query:
                    empty.append(query)
            assert empty == []

    asyncio.run(main())


async def _scraped(api: str, times: int) -> bool:
    return await _scrapes(api) >= times


async def _scrapes(api: str) -> int:
    found = await answered(api, 'count_over_time(up{job="flotilla"}[5m])')
    return int(found[0]["value"][1]) if found else 0
