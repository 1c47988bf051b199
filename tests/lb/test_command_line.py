"""`python -m lb`: mistakes are one readable line each, never a traceback; the exit status says whose they are."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.version import version
from tests.support.certificates import Certificates, replace
from tests.support.commands import Ended, lb, runtime_directory, written
from tests.support.ports import free_port, free_ports
from tests.support.stack import ROOT


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_directory() as directory:
        yield directory
        left = [str(path) for path in directory.rglob("*") if path.name != "flotilla"]
        assert left == [], "the command left files behind"


def _lb(*arguments: object, runtime: Path, cwd: Path = ROOT) -> Ended:
    return asyncio.run(lb(*arguments, runtime=runtime, cwd=cwd))


def test_an_unknown_option_is_one_line(runtime: Path) -> None:
    """Status 2, and where to look."""
    ended = _lb("--port", "80", runtime=runtime)
    assert (ended.status, ended.out) == (2, "")
    assert ended.errors == ["python -m lb: unrecognized arguments: --port (--help shows what is allowed)"]


def test_an_unknown_command_is_one_line(runtime: Path) -> None:
    """The commands that a user may type are named; the supervisor's own is not."""
    ended = _lb("start", runtime=runtime)
    assert ended.status == 2
    assert ended.errors == [
        "python -m lb: unknown command 'start'; allowed: check, status, drain, undrain (--help shows what is allowed)"
    ]


def test_help_shows_what_a_user_needs_and_no_more(runtime: Path) -> None:
    """The worker command belongs to the supervisor."""
    ended = _lb("--help", runtime=runtime)
    assert ended.status == 0
    assert "check" in ended.out
    assert "status" in ended.out
    assert "worker" not in ended.out


def test_the_version_is_told(runtime: Path) -> None:
    """As `Flotilla x.y.z`."""
    assert _lb("--version", runtime=runtime).out == f"Flotilla {version()}\n"


def test_a_missing_file_is_one_line(runtime: Path, tmp_path: Path) -> None:
    """It was asked for, so the defaults are no answer."""
    ended = _lb("--config", tmp_path / "none.yaml", runtime=runtime)
    assert ended.status == 2
    assert ended.errors == [f"{tmp_path}/none.yaml: cannot be read: No such file or directory"]


@pytest.mark.parametrize("command", [(), ("check",)])
def test_every_mistake_in_the_file_is_told_at_once(runtime: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Each on its own line, with file, line and key; status 2; nothing is started."""
    file = written(tmp_path, {"lb": {"workers": 0, "lisen": "x"}, "nodes": {"lease_s": "long"}})
    ended = _lb(*command, "--config", file, runtime=runtime)
    assert ended.status == 2
    assert len(ended.errors) == 3
    assert all(line.startswith(f"{file}:") for line in ended.errors)


def test_check_says_ok_and_what_would_run(runtime: Path, tmp_path: Path) -> None:
    """Addresses, Redis, nodes with ports and app, static nodes, workers."""
    config = {
        "lb": {"listen": "127.0.0.1:8000", "admin": "127.0.0.1:8001", "workers": 2},
        "redis": "redis://user:hidden@redis.example:6379/0",
        "nodes": {"local": 2, "first_port": 3100, "static": ["http://10.0.0.5:3000"]},
    }
    ended = _lb("check", "--config", written(tmp_path, config), runtime=runtime)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "ok"
    said = dict(line.split(maxsplit=1) for line in lines[1:])
    assert said["listen"] == "127.0.0.1:8000"
    assert said["admin"] == "127.0.0.1:8001"
    assert said["workers"] == "2"
    assert said["redis"] == "redis://user:***@redis.example:6379/0"
    assert said["nodes"] == "2 on 127.0.0.1, ports 3100 3101   app node.chat:sio"
    assert said["static"] == "http://10.0.0.5:3000"


def test_the_option_may_stand_on_either_side_of_the_command(runtime: Path, tmp_path: Path) -> None:
    """`lb --config F check` and `lb check --config F` are the same."""
    file = written(tmp_path, {"redis": "none", "nodes": {"local": 0, "static": ["http://10.0.0.5:3000"]}})
    for arguments in (("--config", file, "check"), ("check", "--config", file)):
        assert str(file) in _lb(*arguments, runtime=runtime).out


def test_without_a_file_the_defaults_are_checked(runtime: Path, tmp_path: Path) -> None:
    """An empty directory runs the demo."""
    ended = _lb("check", runtime=runtime, cwd=tmp_path)
    assert ended.status == 0
    assert "built-in defaults" in ended.out


def test_an_application_that_cannot_be_imported_is_found_by_check(runtime: Path, tmp_path: Path) -> None:
    """It is looked for beside the configuration."""
    file = written(tmp_path, {"nodes": {"app": "shop:sio"}})
    ended = _lb("check", "--config", file, runtime=runtime)
    assert ended.status == 2
    assert ended.errors[-1].startswith("app shop:sio: no module shop")
    (tmp_path / "shop.py").write_text("from node import Server\nsio = Server()\n", encoding="utf-8")
    assert _lb("check", "--config", file, runtime=runtime).status == 0


def test_more_clients_than_open_files_is_found_by_check(runtime: Path, tmp_path: Path) -> None:
    """The limit of this host is named, and how many it would hold."""
    ended = _lb("check", "--config", written(tmp_path, {"lb": {"max_connections": 10**9}}), runtime=runtime)
    assert ended.status == 2
    assert ended.errors[0].startswith("lb.max_connections: 1000000000 clients need")


def test_check_says_what_clients_get_to_see_over_tls(runtime: Path, tmp_path: Path) -> None:
    """Names and end of the certificate, found beside the configuration; a mistake in it is one line, status 2."""
    made = Certificates(tmp_path)
    tls = {"certificate": "tls.crt", "key": "tls.key", "redirect": "127.0.0.1:80"}
    file = written(tmp_path, {"lb": {"tls": tls}})
    ended = _lb("check", "--config", file, runtime=runtime)
    assert ended.status == 0
    said = dict(line.split(maxsplit=1) for line in ended.out.splitlines()[1:])
    assert said["tls"].startswith("localhost 127.0.0.1 ::1, until ")
    assert said["redirect"] == "127.0.0.1:80"
    made.issue(days=3)
    assert "the certificate expires on" in _lb("check", "--config", file, runtime=runtime).out
    others = made.beside("more", "shop.example", "localhost")
    file = written(tmp_path, {"lb": {"tls": tls | {"more": [others.section]}}})
    said = dict(line.split(maxsplit=1) for line in _lb("check", "--config", file, runtime=runtime).out.splitlines()[1:])
    assert said["tls.more.0"].startswith("shop.example localhost, until ")
    assert said["note"] == "lb.tls.more.0: who asks for localhost gets lb.tls, which comes first"
    made.key.unlink()
    ended = _lb("check", "--config", file, runtime=runtime)
    assert (ended.status, ended.errors) == (2, [f"lb.tls.key: {made.key} cannot be read: No such file or directory"])


def test_a_certificate_that_cannot_be_used_stops_the_start_with_one_line(runtime: Path, tmp_path: Path) -> None:
    """Status 1: it may be there the next time; nothing is started."""
    made = Certificates(tmp_path)
    key = made.key.read_bytes()
    made.issue()
    replace(made.key, key)
    config = {"lb": {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}", "tls": made.section}}
    ended = _lb("--config", written(tmp_path, config), runtime=runtime)
    assert ended.status == 1
    [line] = ended.errors
    assert line == f"lb.tls.key: {made.key} is not the key of the first certificate in {made.certificate}"


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_port_in_use_is_one_line_that_names_address_and_key(runtime: Path, tmp_path: Path, key: str) -> None:
    """Status 1: it may be free the next time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        lb_section = {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"} | {key: address}
        ended = _lb("--config", written(tmp_path, {"lb": lb_section}), runtime=runtime)
    assert ended.status == 1
    assert ended.errors == [f"lb.{key}: {address} is in use by another process"]


def test_a_nodes_port_in_use_is_one_line(runtime: Path, tmp_path: Path) -> None:
    """Found before anything is started."""
    first = free_ports(4)
    config = {
        "lb": {"listen": f"127.0.0.1:{first + 2}", "admin": f"127.0.0.1:{first + 3}"},
        "nodes": {"local": 2, "first_port": first},
    }
    with socket.create_server(("127.0.0.1", first + 1)):
        ended = _lb("--config", written(tmp_path, config), runtime=runtime)
    assert ended.status == 1
    assert ended.errors == [f"nodes.first_port: 127.0.0.1:{first + 1} is in use by another process"]


def test_an_address_of_another_host_is_one_line(runtime: Path, tmp_path: Path) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737) and nobody's."""
    ended = _lb("--config", written(tmp_path, {"lb": {"listen": "192.0.2.1:8000"}}), runtime=runtime)
    assert (ended.status, ended.errors) == (1, ["lb.listen: 192.0.2.1:8000 is not an address of this host"])


def test_a_redis_that_does_not_answer_is_one_line_without_its_password(runtime: Path, tmp_path: Path) -> None:
    """Nothing else is started."""
    first = free_ports(5)
    config = {
        "redis": f"redis://:hidden@127.0.0.1:{first}/0",
        "lb": {"listen": f"127.0.0.1:{first + 1}", "admin": f"127.0.0.1:{first + 2}"},
        "nodes": {"local": 1, "first_port": first + 3},
    }
    ended = _lb("--config", written(tmp_path, config), runtime=runtime)
    assert ended.status == 1
    assert len(ended.errors) == 1
    assert ended.err.startswith(f"no Redis at redis://:***@127.0.0.1:{first}/0: ")
    assert "hidden" not in ended.err + ended.out


def test_an_application_that_cannot_be_imported_stops_the_stack_with_its_reason(runtime: Path, tmp_path: Path) -> None:
    """All nodes fail in the same way: said once, at the end, and nothing is left running."""
    first = free_ports(4)
    config = {
        "lb": {"listen": f"127.0.0.1:{first + 2}", "admin": f"127.0.0.1:{first + 3}"},
        "nodes": {"local": 2, "first_port": first, "app": "shop:sio"},
    }
    ended = _lb("--config", written(tmp_path, config), runtime=runtime)
    assert ended.status == 2
    assert len(ended.errors) == 1
    assert ": app shop:sio: no module shop" in ended.err
