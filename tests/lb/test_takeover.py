"""What of the dead's is taken over, and what is not.  (Whole stacks: tests/faults/test_supervisor_takeover.py.)"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import embedded
from cluster.birth import birth
from cluster.config import Config, Endpoint
from cluster.config_file import Loaded, written
from cluster.leftovers import Estate, estates
from cluster.rundir import RunDir
from cluster.version import version
from lb import takeover
from lb.roster import Roster
from lb.takeover import find, serves
from tests.support.commands import runtime_directory
from tests.support.ports import free_port


@dataclass
class Graveyard:
    """A base with run directories of the dead, whose nodes are sleeping processes."""

    base: Path
    stack: ExitStack
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def bury(self, name: str, ports: range, file: str = "/srv/config.yaml", **sections: Any) -> RunDir:
        """Leave a directory whose nodes run with `sections` of a configuration."""
        path = self.base / name
        path.mkdir()
        run_dir = RunDir(path)
        config = Config.model_validate({"redis": embedded.url(run_dir), "secret": "s"} | sections)
        resolved = run_dir.write_private("config.resolved.yaml", written(config))
        children = [self._node(port, resolved) for port in ports]
        run_dir.publish("supervisor", {"pid": 1, "birth": "b", "file": file, "children": children})
        return run_dir

    def _node(self, port: int, resolved: Path) -> dict[str, Any]:
        process = self.stack.enter_context(subprocess.Popen(["sleep", "300"]))
        self.stack.callback(process.kill)
        self.processes.append(process)
        return {
            "name": f"n{port}",
            "kind": "node",
            "pid": process.pid,
            "birth": birth(process.pid),
            "outlives": True,
            "stop_within_s": 5.0,
            "restarts": 0,
            "port": port,
            "ports": [port],
            "config": str(resolved),
            "base": "/srv",
            "version": version(),
        }

    def found(self, file: str = "/srv/config.yaml", **sections: Any) -> takeover.Takeover | None:
        loaded = Loaded(Config.model_validate(sections), Path(file).parent, Path(file))
        return find(estates(self.base), loaded)


@pytest.fixture
def graveyard() -> Iterator[Graveyard]:
    with runtime_directory() as base, ExitStack() as stack:
        yield Graveyard(base, stack)


def test_nodes_that_hold_our_ports_are_ours(graveyard: Graveyard) -> None:
    """Whichever file they were started from: a release may have a directory of its own."""
    graveyard.bury("a", range(3000, 3003), file="/releases/17/config.yaml")
    found = graveyard.found("/releases/18/config.yaml")
    assert found is not None
    assert found.ports == {3000, 3001, 3002}
    assert found.secret == "s"


def test_nodes_of_our_file_are_ours_on_whichever_port(graveyard: Graveyard) -> None:
    """`first_port` was changed meanwhile."""
    graveyard.bury("a", range(4000, 4002))
    found = graveyard.found()
    assert found is not None
    assert found.ports == {4000, 4001}


def test_nodes_of_another_stack_are_not_ours(graveyard: Graveyard) -> None:
    """They wait for their own supervisor."""
    graveyard.bury("a", range(4000, 4002), file="/other/config.yaml")
    assert graveyard.found() is None


def test_of_several_our_own_file_goes_first_then_the_most_nodes(graveyard: Graveyard) -> None:
    """The others are in the way, and are ended."""
    graveyard.bury("a", range(3000, 3001), file="/other/config.yaml")
    graveyard.bury("b", range(3001, 3003), file="/another/config.yaml")
    found = graveyard.found()
    assert found is not None
    assert found.estate.run_dir.path.name == "b"
    graveyard.bury("c", range(4000, 4001))
    found = graveyard.found()
    assert found is not None
    assert found.estate.run_dir.path.name == "c"


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"cluster": "x"}, {}, "cluster"),
        ({}, {"cluster": "x"}, "cluster"),
        ({"redis": "redis://h"}, {}, "redis"),
        ({}, {"redis": "redis://h"}, "redis"),
        ({"redis": "unix:///elsewhere/valkey.sock"}, {}, "redis"),
    ],
)
def test_nodes_of_another_cluster_or_redis_are_not_taken_over(
    graveyard: Graveyard, caplog: pytest.LogCaptureFixture, before: Any, now: Any, changed: str
) -> None:
    """And it says which key was changed."""
    graveyard.bury("a", range(3000, 3003), **before)
    assert graveyard.found(**now) is None
    (record,) = caplog.records
    assert record.message == "nodes of a supervisor that died are not taken over"
    assert vars(record)["changed"] == changed


def test_a_shared_redis_is_the_same_if_its_url_is(graveyard: Graveyard) -> None:
    """Nothing else is known of it."""
    graveyard.bury("a", range(3000, 3003), redis="redis://h")
    assert graveyard.found(redis="redis://h") is not None


@pytest.mark.parametrize("damage", ["", "cluster: [", "cluster: UPPER"])
def test_a_node_whose_configuration_cannot_be_read_is_not_taken_over(
    graveyard: Graveyard, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Another version's, or somebody has tidied up: it could not be started again as it is."""
    run_dir = graveyard.bury("a", range(3000, 3001))
    file = run_dir.path / "config.resolved.yaml"
    file.write_text(damage, encoding="ascii") if damage else file.unlink()
    assert graveyard.found() is None
    assert caplog.messages == ["node not taken over"]


def test_nodes_that_end_by_themselves_are_not_taken_over(graveyard: Graveyard) -> None:
    """outlive_supervisor_s: 0."""
    run_dir = graveyard.bury("a", range(3000, 3001))
    report = run_dir.report("supervisor")
    assert report is not None
    report["children"][0]["outlives"] = False
    run_dir.publish("supervisor", report)
    assert graveyard.found() is None


def test_where_no_process_can_be_watched_nothing_is_taken_over(
    graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS: what is in the way is ended, as before."""
    graveyard.bury("a", range(3000, 3003))
    monkeypatch.setattr(takeover, "can_hold", lambda: False)
    assert graveyard.found() is None


@pytest.mark.parametrize(
    ("facts", "base", "nodes", "fits"),
    [
        ({}, "/srv", {}, True),
        ({}, "/srv", {"local": 1, "static": ["http://10.0.0.5:3000"]}, True),
        ({"version": "another"}, "/srv", {}, False),
        ({}, "/releases/18", {}, False),
        ({}, "/srv", {"app": "other:sio"}, False),
        ({"name": "n3000-abcdef"}, "/srv", {}, False),
    ],
)
def test_a_node_fits_if_it_would_be_started_just_so(
    graveyard: Graveyard, facts: dict[str, Any], base: str, nodes: dict[str, Any], fits: bool
) -> None:
    """Else it is replaced, once it was taken over."""
    run_dir = graveyard.bury("a", range(3000, 3001))
    report = run_dir.report("supervisor")
    assert report is not None
    report["children"][0] |= facts
    run_dir.publish("supervisor", report)
    found = graveyard.found()
    assert found is not None
    config = Config.model_validate({"redis": embedded.url(run_dir), "secret": "s", "nodes": nodes})
    assert found.heirs[0].fits(Roster(config, Path(base), run_dir, run_dir.path / "new")) is fits


def test_who_died_since_is_not_counted(graveyard: Graveyard) -> None:
    """Between two looks."""
    graveyard.bury("a", range(3000, 3002))
    for process in graveyard.processes:
        process.kill()
        process.wait()
    assert graveyard.found() is None
    assert Estate.of(RunDir(graveyard.base / "a")).left == ()


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
        (b"x" * 100_000, False),
    ],
)
def test_a_node_serves_if_it_answers_and_is_not_leaving(answer: bytes, result: bool) -> None:
    """An application may have a page of its own at /healthz."""

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()) == b"GET /healthz HTTP/1.1\r\n"
        writer.write(answer)
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
            assert await serves(Endpoint(*server.sockets[0].getsockname())) is result

    asyncio.run(main())


def test_a_node_that_is_silent_or_not_there_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again."""
    monkeypatch.setattr(takeover, "HEALTH_WITHIN_S", 0.05)

    async def main() -> None:
        assert not await serves(Endpoint("127.0.0.1", free_port()))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            assert not await serves(Endpoint(*silent.getsockname()))

    asyncio.run(main())
