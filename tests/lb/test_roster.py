"""How many children a configuration asks for."""

from __future__ import annotations

import os

import pytest

from cluster import host
from cluster.config import MOST_WORKERS, Lb
from lb.roster import worker_count


def test_auto_is_a_worker_for_each_cpu_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its CPU affinity where the system has one, and never more than the most that a number may ask for."""
    auto = Lb.model_validate({"workers": "auto"})
    before = os.sched_getaffinity(0)
    try:
        assert worker_count(auto) == len(before)
        os.sched_setaffinity(0, {min(before)})
        assert worker_count(auto) == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr("lb.roster.usable_cpus", lambda: 1000)
    assert worker_count(auto) == MOST_WORKERS


def test_a_number_of_workers_is_taken_as_it_is() -> None:
    """Whatever the machine has."""
    assert worker_count(Lb.model_validate({"workers": 7})) == 7


def test_a_system_without_affinity_counts_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert host.usable_cpus() == (os.cpu_count() or 1)
