"""Finding the user's application, and the one line that says why it cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import UsageError
from node import Server
from node.loading import load_app


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory for the user's modules; what they leave in the interpreter is taken out again."""
    modules, path = set(sys.modules), [*sys.path]
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refusal(spec: str, base: Path) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load_app(spec, base)
    return str(caught.value).splitlines()


def test_a_module_in_the_base_directory_is_found(base: Path) -> None:
    """Beside the configuration, in packages too, and attributes of attributes."""
    (base / "mine").mkdir()
    (base / "mine" / "chat.py").write_text(
        "from node import Server\nsio = Server()\nclass Holder:\n    server = Server()\n"
    )
    assert isinstance(load_app("mine.chat:sio", base), Server)
    assert isinstance(load_app("mine.chat:Holder.server", base), Server)


@pytest.mark.parametrize("spec", ["nowhere:sio", "nowhere.at.all:sio"])
def test_a_missing_module_is_named_with_where_it_was_looked_for(base: Path, spec: str) -> None:
    """One line, no traceback."""
    [line] = refusal(spec, base)
    assert "no module nowhere" in line
    assert str(base) in line


def test_a_module_that_misses_another_is_the_users_own_mistake(base: Path) -> None:
    """The line names what it lacks, and the frame is the user's."""
    (base / "mine1.py").write_text("import not_installed_anywhere\n")
    lines = refusal("mine1:sio", base)
    assert lines[-1] == (
        "app mine1:sio: importing it failed: ModuleNotFoundError: No module named 'not_installed_anywhere'"
    )
    assert any("mine1.py" in line for line in lines)


def test_a_missing_attribute_is_named_and_servers_are_suggested(base: Path) -> None:
    """The commonest mistake is another name."""
    (base / "mine2.py").write_text("from node import Server\nserver = Server()\n")
    [line] = refusal("mine2:sio", base)
    assert "mine2 has no sio; it has mine2:server" in line


def test_a_plain_python_socketio_server_is_told_the_one_line_to_change(base: Path) -> None:
    """It would start, and be deaf to every other node."""
    (base / "mine3.py").write_text("import socketio\nsio = socketio.AsyncServer(async_mode='aiohttp')\n")
    [line] = refusal("mine3:sio", base)
    assert "socketio.AsyncServer" in line
    assert "from node import Server" in line


def test_anything_else_is_refused_by_its_type(base: Path) -> None:
    """For instance the aiohttp application instead of the server."""
    (base / "mine4.py").write_text("from node import Server\nsio = Server()\napp = sio.web\n")
    [line] = refusal("mine4:app", base)
    assert "not Application" in line
    assert "mine4:sio" in line


def test_an_exception_in_the_users_module_is_shown_from_the_users_frames_on(base: Path) -> None:
    """The last frames of it, none of ours or of the import machinery, then one line."""
    (base / "deep.py").write_text("def a(n):\n    b(n)\n\ndef b(n):\n    a(n - 1) if n else 1 / 0\n")
    (base / "mine5.py").write_text("import deep\ndeep.a(20)\n")
    lines = refusal("mine5:sio", base)
    assert lines[-1] == "app mine5:sio: importing it failed: ZeroDivisionError: division by zero"
    frames = [line for line in lines if line.lstrip().startswith("File ")]
    assert len(frames) == 5
    assert all("deep.py" in frame for frame in frames)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def (:\n", "SyntaxError"),
        ("raise SystemExit('no more')\n", "SystemExit: no more"),
        ("raise ValueError\n", "ValueError"),
        ("from node import Server\nServer(async_mode='asgi')\n", "node.Server serves through aiohttp"),
        ("from node import Server\nServer().node\n", "python -m node"),
    ],
)
def test_whatever_an_import_raises_ends_in_one_line(base: Path, source: str, reason: str) -> None:
    """Also what is no Exception, and our own errors."""
    (base / "mine6.py").write_text(source)
    lines = refusal("mine6:sio", base)
    assert lines[-1].startswith("app mine6:sio: importing it failed: ")
    assert reason in lines[-1]
    assert any("mine6.py" in line for line in lines)
