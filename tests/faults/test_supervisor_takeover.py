"""kill -9 of the supervisor, and the next one takes over what still runs: real processes, real clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_classic import everyone_hears, joined
from tests.support.certificates import Certificates
from tests.support.children import is_over
from tests.support.clients import WEBSOCKET, python_crowd
from tests.support.commands import lb, runtime_directory
from tests.support.handing import frame, payload_from
from tests.support.ports import free_port
from tests.support.talkers import APP, Talker, talker, talking
from tests.support.valkey import Valkey
from tests.support.waiting import eventually
from tests.support.watched import UP, Watched, config_of, refuses, stack, starting, status_of

TAKEN_OVER = "taking over from a supervisor that died"


@asynccontextmanager
async def killed(directory: Path, runtime: Path, count: int = 2, **sections: Any) -> AsyncIterator[Watched]:
    """Run a stack of the talkers' application, for the block to kill and start again; nothing of it may be left."""
    (directory / "talk.py").write_text(APP, encoding="utf-8")
    sections["nodes"] = {"app": "talk:sio"} | sections.get("nodes", {})
    async with stack(directory, count, runtime, **sections) as watched:
        yield watched


async def kill(watched: Watched) -> dict[str, int]:
    """kill -9 the supervisor; return the pids of its children."""
    pids = watched.pids
    watched.process.kill()
    await watched.ended()
    return pids


@asynccontextmanager
async def started_again(watched: Watched, **sections: Any) -> AsyncIterator[Watched]:
    """Start the stack once more, with a configuration that may have changed, until the block ends."""
    config = watched.config
    for section, value in sections.items():
        config = config | {section: config.get(section, {}) | value if isinstance(value, dict) else value}
    ups = len(watched.lines(UP)) + 1
    async with starting(watched.log.parent, watched.runtime, config) as again:
        await again.until_said(UP, times=ups)
        yield again


def name(watched: Watched, number: int = 0) -> str:
    return f"n{watched.config['nodes']['first_port'] + number}"


async def all_talk_on(talkers: Sequence[Talker]) -> None:
    before = [each.heard for each in talkers]
    await eventually(lambda: all(each.heard > then for each, then in zip(talkers, before, strict=True)))


def test_clients_that_were_handed_over_notice_nothing(tmp_path: Path) -> None:
    """They talk all the time; nodes and Redis stay the same processes; new clients are served; SIGTERM ends it all."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with AsyncExitStack() as later, killed(tmp_path, runtime) as first:
                async with talking(first.url, 8) as talkers:
                    pids = await kill(first)
                    assert {each.pid for each in talkers} == {pids[name(first, 0)], pids[name(first, 1)]}
                    await eventually(lambda: refuses(first.url), what="nobody listens")
                    await all_talk_on(talkers)
                    again = await later.enter_async_context(started_again(first))
                    assert len(again.lines(TAKEN_OVER)) == 1
                    kept = {each: pid for each, pid in pids.items() if each != "worker-0"}
                    assert kept == {each: again.pids[each] for each in kept}
                    await all_talk_on(talkers)
                    async with talker(again.url) as new:
                        assert new.pid in kept.values()
                    shown = await eventually(partial(_shown, again, "; 8 clients"))
                    assert shown.count("  ready  ") == 2
                    assert f"taken over from a supervisor that died: {name(again, 0)} {name(again, 1)}" in shown
                again.process.terminate()
                assert await again.ended() == 0
                assert [each for each, pid in pids.items() if not is_over(pid)] == []
                assert again.left() == []
                assert again.lines("killed") == []

    asyncio.run(main())


async def _shown(watched: Watched, part: str) -> str:
    """Return what `python -m lb status` prints if it has `part`."""
    ended = await lb("status", "--config", watched.log.parent / "config.yaml", runtime=watched.runtime)
    return ended.out if part in ended.out else ""


def test_tls_and_where_plain_http_is_led_there_open_again(tmp_path: Path) -> None:
    """The dead stack's worker lets go of all its addresses."""

    async def main() -> None:
        made = Certificates(tmp_path)
        plain = f"127.0.0.1:{free_port()}"
        with runtime_directory() as runtime:
            tls = made.section | {"redirect": plain}
            async with killed(tmp_path, runtime, 1, lb={"tls": tls, "drain_s": 30.0}) as first:
                secured = f"https://{first.config['lb']['listen']}/healthz"
                assert await status_of(secured, made.trust()) == 200
                await kill(first)
                async with (
                    started_again(first),
                    aiohttp.ClientSession() as session,
                    session.get(f"http://{plain}/healthz", allow_redirects=False) as answer,
                ):
                    assert (answer.status, answer.headers["Location"]) == (308, secured)
                    assert await status_of(secured, made.trust()) == 200

    asyncio.run(main())


def test_a_worker_that_drains_keeps_its_clients_and_none_of_its_addresses(tmp_path: Path) -> None:
    """Clients in a tunnel have the worker's drain time; the next supervisor need not wait for that."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, lb={"handoff": "never", "drain_s": 30.0}) as first:
                async with talking(first.url, 2) as talkers:
                    pids = await kill(first)
                    async with started_again(first) as again:
                        assert not is_over(pids["worker-0"])
                        await all_talk_on(talkers)
                        async with talker(again.url) as new:
                            assert new.pid in pids.values()
                        for each in talkers:
                            each.stop()
                            each.caller.close()
                        await eventually(lambda: is_over(pids["worker-0"]), what="the old worker is gone")
                        assert again.lines("killed") == []
                assert again.left() == []

    asyncio.run(main())


def test_nodes_hear_each_other_while_nobody_supervises(tmp_path: Path) -> None:
    """The embedded Redis stays, and with it presence and every message from one node's clients to another's."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with stack(tmp_path, 2, runtime) as first, python_crowd() as crowd:
                clients = [await joined(crowd, first.url, f"user-{i}", WEBSOCKET) for i in range(4)]
                assert len({client.heard.all("welcome")[0]["port"] for client in clients}) == 2
                await kill(first)
                await everyone_hears(clients[0], clients, "nobody supervises")
                async with started_again(first) as again:
                    await everyone_hears(clients[1], clients, "somebody does")
                    newcomer = await joined(crowd, again.url, "newcomer", WEBSOCKET)
                    await everyone_hears(newcomer, [*clients, newcomer], "hello")
                    assert (await newcomer.call("online_users"))["count"] == 5
                    assert all(client.heard.disconnects == [] for client in clients)
                    for client in [*clients, newcomer]:
                        await client.close()
            assert again.left() == []

    asyncio.run(main())


def test_a_node_that_died_while_nobody_supervised_is_replaced(tmp_path: Path) -> None:
    """Under its name and on its port; the other one goes on.  So is Redis, at the same socket."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                os.kill(pids[name(first, 1)], signal.SIGKILL)
                os.kill(pids["valkey"], signal.SIGKILL)
                async with started_again(first) as again:
                    assert again.pids["valkey"] != pids["valkey"]
                    assert again.pids[name(first, 0)] == pids[name(first, 0)]
                    assert again.pids[name(first, 1)] != pids[name(first, 1)]
                    async with talking(again.url, 4) as talkers:
                        await all_talk_on(talkers)
                        assert {each.pid for each in talkers} == {again.pids[name(first, i)] for i in (0, 1)}
                assert again.left() == []

    asyncio.run(main())


def test_a_node_that_had_not_yet_come_up_is_waited_for(tmp_path: Path) -> None:
    """Nobody hears it say that it is ready, so it is asked; it is the same process, and no second one is started."""

    async def main() -> None:
        (tmp_path / "slow.py").write_text(_SLOW, encoding="utf-8")
        with runtime_directory() as runtime:
            config = config_of(1, {"nodes": {"app": "slow:sio"}})
            async with starting(tmp_path, runtime, config) as first:
                node = name(first)
                await eventually(lambda: (tmp_path / "begun").exists())
                pids = await kill(first)
            async with starting(tmp_path, runtime, config) as again:
                await again.until_said(TAKEN_OVER)
                assert again.children[node]["state"] == "starting"
                (tmp_path / "go").touch()
                await again.until_said(UP)
                assert again.children[node]["state"] == "ready"
                assert again.pids[node] == pids[node]
            assert again.left() == []

    asyncio.run(main())


_SLOW = """
import asyncio
from pathlib import Path
from node import Server

sio = Server()
here = Path(__file__).parent

async def wait(app):
    (here / "begun").touch()
    while not (here / "go").exists():
        await asyncio.sleep(0.02)

sio.web.on_startup.append(wait)
"""


def test_what_was_taken_over_is_supervised(tmp_path: Path) -> None:
    """Its death is noticed, though it is nobody's child, and it is started again; so is Redis."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                async with started_again(first) as again:
                    for victim in (name(first), "valkey"):
                        os.kill(pids[victim], signal.SIGKILL)
                        await eventually(partial(_is_new, again, victim, pids[victim]))
                        assert again.children[victim]["restarts"] == 1
                        assert again.children[victim]["adopted"] is False
                    async with talking(again.url, 4) as talkers:
                        await all_talk_on(talkers)
                assert again.left() == []

    asyncio.run(main())


def _is_new(watched: Watched, child: str, pid: int) -> bool:
    shown = watched.children[child]
    return bool(shown["state"] == "ready" and shown["pid"] != pid)


def test_it_may_be_killed_again_and_again(tmp_path: Path) -> None:
    """Each supervisor is watched as the first one was: the third takes over, and without one the nodes' time runs."""

    async def main() -> None:
        with runtime_directory() as runtime:
            nodes = {"outlive_supervisor_s": 10.0}
            async with AsyncExitStack() as later, killed(tmp_path, runtime, nodes=nodes) as first:
                pids = await kill(first)
                for _ in range(2):
                    again = await later.enter_async_context(started_again(first))
                    assert again.pids[name(first)] == pids[name(first)]
                    async with talking(again.url, 2) as talkers:
                        await kill(again)
                        await all_talk_on(talkers)
                said = "no other came in time"
                await again.until_said("the supervisor is gone: serving on", times=4)
                await eventually(lambda: is_over(pids[name(first)]), within_s=30, what=said)
                await eventually(lambda: is_over(pids["valkey"]), within_s=30, what=said)

    asyncio.run(main())


@pytest.mark.parametrize("changed", [{"app": "other:sio"}, {"drain_s": 0.5}])
def test_nodes_that_run_otherwise_than_configured_by_now_are_rolled(tmp_path: Path, changed: dict[str, Any]) -> None:
    """They are taken over first, and then replaced one at a time, as a reload does it: somebody serves at any time."""

    async def main() -> None:
        (tmp_path / "other.py").write_text(APP, encoding="utf-8")
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                async with started_again(first, nodes=changed) as again:
                    await again.until_said("node replaced", times=2)
                    assert len(again.lines(TAKEN_OVER)) == 1
                    for number in (0, 1):
                        assert again.pids[name(first, number)] != pids[name(first, number)]
                        assert is_over(pids[name(first, number)])
                    assert await _has_files(again, 1)
                assert again.left() == []

    asyncio.run(main())


async def _has_files(watched: Watched, count: int) -> bool:
    """Wait until the configurations that nobody will read again are gone."""
    return bool(await eventually(lambda: len([*watched.run_dir.glob("config.resolved*")]) == count))


def test_other_ports_keep_the_nodes_that_are_still_wanted(tmp_path: Path) -> None:
    """Two nodes on the next two ports: one stays, one is new, one stops in order."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, lb={"workers": 2}) as first:
                port = first.config["nodes"]["first_port"]
                # The ports behind the nodes were the balancer's.
                first.config["lb"] |= {"listen": f"127.0.0.1:{port + 3}", "admin": f"127.0.0.1:{port + 4}"}
                pids = await kill(first)
                async with started_again(first, nodes={"first_port": port + 1}) as again:
                    await eventually(lambda: f"n{port}" not in again.pids, what="the first is gone")
                    assert is_over(pids[f"n{port}"])
                    assert again.pids[f"n{port + 1}"] == pids[f"n{port + 1}"]
                    assert again.children[f"n{port + 2}"]["adopted"] is False
                assert again.left() == []

    asyncio.run(main())


def test_an_application_that_cannot_be_imported_by_now_leaves_the_nodes_alone(tmp_path: Path) -> None:
    """Rolling them would only drop clients; a reload after it was repaired rolls them."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                async with started_again(first, nodes={"app": "missing:sio"}) as again:
                    await again.until_said("nodes that were taken over run on as they are")
                    assert again.pids[name(first)] == pids[name(first)]
                    (tmp_path / "missing.py").write_text(APP, encoding="utf-8")
                    again.process.send_signal(signal.SIGHUP)
                    await again.until_said("reload: done")
                    assert again.pids[name(first)] != pids[name(first)]
                assert again.left() == []

    asyncio.run(main())


def test_other_log_settings_reach_nodes_that_were_taken_over(tmp_path: Path) -> None:
    """As with a reload: told, not restarted."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, count=1, nodes={"metrics_interval_s": 0.2}) as first:
                pids = await kill(first)
                config = first.config | {"log": {"format": "json"}}
                async with starting(tmp_path, runtime, config) as again:
                    await again.until_said('"message":"up"')
                    await again.until_said('"message":"metrics"')
                    assert again.pids[name(first)] == pids[name(first)]
                assert again.left() == []

    asyncio.run(main())


def test_nodes_of_another_cluster_are_replaced_and_it_says_why(tmp_path: Path) -> None:
    """Their sids and channels would be unknown there."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                async with started_again(first, cluster="other") as again:
                    assert len(again.lines("are not taken over changed=cluster")) == 1
                    assert len(again.lines("ending what a supervisor that died left behind")) == 1
                    assert [each for each, pid in pids.items() if not is_over(pid)] == []
                assert again.left() == []

    asyncio.run(main())


def test_a_stranger_under_a_recorded_pid_is_never_signalled(tmp_path: Path) -> None:
    """The pids of the dead are used again, all of them, by processes that have nothing to do with us."""

    async def main() -> None:
        stranger = await asyncio.create_subprocess_exec("sleep", "300", start_new_session=True)
        with runtime_directory() as runtime:
            try:
                async with killed(tmp_path, runtime) as first:
                    pids = await kill(first)
                    for pid in pids.values():
                        await eventually(partial(_killed, pid))
                    file = first.run_dir / "supervisor.json"
                    report = json.loads(file.read_text(encoding="utf-8"))
                    for child in report["children"]:
                        child["pid"] = stranger.pid
                    file.write_text(json.dumps(report), encoding="utf-8")
                    async with started_again(first) as again:
                        assert again.lines(TAKEN_OVER) == []
                        assert stranger.pid not in again.pids.values()
                        assert stranger.returncode is None
                    assert stranger.returncode is None
                    assert again.left() == []
            finally:
                stranger.kill()
                await stranger.wait()

    asyncio.run(main())


def _killed(pid: int) -> bool:
    if not is_over(pid):
        os.kill(pid, signal.SIGKILL)
    return is_over(pid)


def test_a_start_that_fails_leaves_them_to_the_next_one(tmp_path: Path) -> None:
    """Somebody else has our address by now: one line, status 1, and no client is dropped."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first, talking(first.url, 4) as talkers:
                pids = await kill(first)
                host, _, port = first.config["lb"]["listen"].partition(":")
                await eventually(lambda: refuses(first.url))
                with socket.create_server((host, int(port))):
                    ended = await lb("--config", tmp_path / "config.yaml", runtime=runtime)
                    assert ended.status == 1
                    assert f"lb.listen: {host}:{port} is in use by another process" in ended.err
                await all_talk_on(talkers)
                async with started_again(first) as again:
                    assert again.pids[name(first)] == pids[name(first)]
                    await all_talk_on(talkers)
                    for each in talkers:
                        each.stop()
                assert again.left() == []

    asyncio.run(main())


def test_of_two_that_start_at_once_one_takes_over_and_the_other_says_why_it_cannot(tmp_path: Path) -> None:
    """No node has two supervisors, and none is lost."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime) as first:
                pids = await kill(first)
                async with (
                    starting(tmp_path, runtime, first.config) as one,
                    starting(tmp_path, runtime, first.config) as two,
                ):
                    await one.until_said(UP, times=2)
                    await eventually(lambda: any(map(_has_ended, (one, two))))
                    assert sorted(str(each.process.returncode) for each in (one, two)) == ["1", "None"]
                    assert len(one.lines("is in use by another process")) == 1
                    assert len(one.lines(TAKEN_OVER)) == 1
                    assert one.pids[name(first)] == pids[name(first)]
                assert one.left() == []

    asyncio.run(main())


def _has_ended(watched: Watched) -> bool:
    return watched.process.returncode is not None


def test_nodes_outlive_a_supervisor_that_meets_no_redis(tmp_path: Path, valkey: Valkey) -> None:
    """It cannot come up, and touches nothing; the next one that can takes over."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, redis=valkey.url) as first:
                async with talking(first.url, 4) as talkers:
                    pids = await kill(first)
                    valkey.kill()
                    ended = await lb("--config", tmp_path / "config.yaml", runtime=runtime)
                    assert (ended.status, ended.errors[-1][:12]) == (1, "no Redis at ")
                    await all_talk_on(talkers)
                    valkey.start()
                    async with started_again(first) as again:
                        kept = [each for each in pids if each.startswith("n")]
                        assert [again.pids[each] for each in kept] == [pids[each] for each in kept]
                        await all_talk_on(talkers)
                        for each in talkers:
                            each.stop()
                assert again.left() == []

    asyncio.run(main())


def test_without_redis_the_nodes_secret_is_kept(tmp_path: Path) -> None:
    """Nobody else knows it: sids and cookies must stay valid."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, count=1, redis="none") as first:
                (before,) = first.run_dir.glob("config.resolved*")
                secret = json.loads(before.read_text(encoding="utf-8"))["secret"]
                pids = await kill(first)
                async with started_again(first) as again:
                    assert again.pids[name(first)] == pids[name(first)]
                    assert await _has_files(again, 1)
                    (after,) = again.run_dir.glob("config.resolved*")
                    assert after != before
                    assert json.loads(after.read_text(encoding="utf-8"))["secret"] == secret
                assert again.left() == []

    asyncio.run(main())


def test_an_orphan_that_prints_more_than_its_pipe_holds_neither_fails_nor_hangs(tmp_path: Path) -> None:
    """What nobody reads is dropped from its oldest end, and said; the rest is shown by the next supervisor."""

    async def main() -> None:
        with runtime_directory() as runtime:
            async with killed(tmp_path, runtime, count=1) as first, talking(first.url, 1) as talkers:
                await kill(first)
                async with talker(f"http://127.0.0.1:{name(first)[1:]}") as loud:
                    for number in range(30):
                        loud.caller.send(frame(b"%d " % number + b"x" * 100_000))
                        await payload_from(loud.caller.reader)
                await all_talk_on(talkers)
                async with started_again(first) as again:
                    await again.until_said("taken over by another supervisor lost_output_bytes=")
                    await again.until_said("heard 29 x")
                    assert "heard 0 x" not in again.said()
                    seen = talkers[0].heard
                    await again.until_said(f"heard {seen}")
                    talkers[0].stop()
                assert again.left() == []

    asyncio.run(main())
