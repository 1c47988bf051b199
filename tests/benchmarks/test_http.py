"""`benchmarks/http.py` as a user runs it, briefly, how it reports, and what it asks and checks."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import http
from benchmarks.http import PROXIES, STREAMERS, STREAMS, Round, report
from benchmarks.web.peers import FLOTILLA, HAPROXY, NAIVE, NAIVE_ASYNCIO, NGINX
from benchmarks.web.results import RequestResult, StreamResult
from tests.benchmarks.scripts import short_run
from tests.support.tools import missing

REQUESTS = RequestResult(
    requests=1000, failed=0, seconds=0.5, cpu_us=100.0, p50_us=800.0, p99_us=2000.0, generator_cpu_percent=20.0
)
CARRIED = StreamResult(mib=64, fault="", seconds=0.5, cpu_us_per_mib=700.0, rss_kib_before=40960, rss_kib_peak=42496)


@pytest.fixture
def _haproxy() -> None:
    if shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        missing("HAProxy", "install the package haproxy")


@pytest.mark.usefixtures("_nginx", "_haproxy")
def test_a_short_run_measures_all_five_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every request is answered, every body arrives, and each proxy works for it."""
    arguments = ["--rounds", "1", "--seconds", "0.3", "--connections", "4", "--mib", "2"]
    said, _, found = short_run(tmp_path, "http.py", *arguments)
    assert "budget: flotilla / naive ≤ 0.4" in said
    (only,) = found["rounds"]
    assert set(only["requests"]) == set(PROXIES)
    assert all(result["failed"] == 0 and result["cpu_us"] > 1 for result in only["requests"].values())
    assert set(only["stream"]) == {" ".join(stream) for stream in STREAMS}
    for carried in only["stream"].values():
        assert set(carried) == set(STREAMERS)
        assert all(result["fault"] == "" for result in carried.values())


def test_without_nginx_and_haproxy_the_others_are_compared(tmp_path: Path) -> None:
    """HAProxy is not asked for on a machine that has none, and nginx only if it is to be compared."""
    arguments = ["--rounds", "1", "--seconds", "0.2", "--connections", "2", "--only", "requests"]
    said, _, found = short_run(
        tmp_path, "http.py", *arguments, "--proxies", "haproxy,flotilla,naive", "--haproxy", "no-such-program"
    )
    assert set(found["rounds"][0]["requests"]) == {FLOTILLA, NAIVE}
    assert found["facts"][HAPROXY] == "not installed"
    assert [line.split() for line in said.splitlines() if line.startswith("  haproxy  ")][-1][1:] == [
        "not",
        "installed",
    ]


def options(*arguments: str) -> argparse.Namespace:
    return http._options(arguments)


def test_the_report_gives_the_ratio_within_rounds_and_says_whether_the_budget_is_kept() -> None:
    """A round in which all are slow does not move it."""
    rounds = [
        Round({name: replace(REQUESTS, cpu_us=cpu * slow) for name, cpu in each.items()})
        for slow in (1, 1, 3)
        for each in [{NGINX: 20.0, FLOTILLA: 40.0, NAIVE: 160.0, NAIVE_ASYNCIO: 200.0}]
    ]
    lines = list(report({"commit": "abc"}, options("--only", "requests"), rounds))
    (line,) = [line for line in lines if line.startswith("  naive  ")]
    assert line.split()[1:5] == ["160.0", "(160.0–480.0)", "0.25", "(0.25–0.25)"]
    assert lines[-1] == "budget: flotilla / naive ≤ 0.4, found 0.25: kept"
    slow = [Round(each.requests | {FLOTILLA: replace(REQUESTS, cpu_us=400.0)}) for each in rounds]
    assert list(report({}, options("--only", "requests"), slow))[-1].endswith("found 2.50: MISSED")


def test_memory_that_grows_with_the_body_misses_its_budget() -> None:
    """The worst of all bodies counts."""
    flat = {stream: dict.fromkeys(STREAMERS, CARRIED) for stream in STREAMS}
    lines = list(report({}, options("--only", "stream"), [Round(streams=flat)]))
    assert lines[-1] == "budget: flotilla grows by at most 8 MiB, found 1.5: kept"
    last = {STREAMS[-1]: flat[STREAMS[-1]] | {FLOTILLA: replace(CARRIED, rss_kib_peak=81920)}}
    lines = list(report({}, options("--only", "stream"), [Round(streams=flat | last)]))
    assert lines[-1].endswith("found 40.0: MISSED")


def test_wrong_answers_and_bodies_are_told_and_are_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the proxy, and what came instead."""
    wrong = Round(
        {FLOTILLA: replace(REQUESTS, failed=2), NAIVE: replace(REQUESTS, requests=0)},
        {STREAMS[0]: {FLOTILLA: replace(CARRIED, fault="status 502")}},
    )
    monkeypatch.setattr(http, "_rounds", lambda *_: [wrong])
    assert http.main(["--proxies", "flotilla,naive", "--only", "requests"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "flotilla: 2 requests failed, 1000 were answered",
        "naive: 0 requests failed, 0 were answered",
        "flotilla, download length fast: status 502",
    ]


@pytest.mark.parametrize(("arguments", "said"), [(["--only", "speed"], "'speed' is none of requests, stream")])
def test_a_question_that_there_is_not_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With those that there are."""
    with pytest.raises(SystemExit):
        options(*arguments)
    assert said in capsys.readouterr().err
