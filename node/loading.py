"""Find the user's application, `module:attribute`, and say in one readable line why it cannot be used."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

import socketio

from cluster.errors import FlotillaError, UsageError
from node.server import Server

FRAMES = 5
"""The last frames of the user's own traceback that are worth showing."""


def load_app(spec: str, base: Path) -> Server:
    """Import the application that `spec` names; a module in `base` is found first.

    Raises UsageError: nothing there, not a `node.Server`, or an exception in the user's code, of which the traceback's
    last frames come before the line.
    """
    module_name, _, attribute = spec.partition(":")
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))
    module = _module(module_name, spec, base)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"app {spec}: {module_name} has no {attribute}{_servers_in(module)}")
        found = getattr(found, part)
    if isinstance(found, Server):
        return found
    if isinstance(found, socketio.AsyncServer | socketio.Server):
        raise UsageError(
            f"app {spec}: this is a {type(found).__module__.partition('.')[0]}.{type(found).__name__}; write"
            f" `from node import Server` and make it with `Server(…)` instead, the rest may stay as it is"
        )
    raise UsageError(f"app {spec}: must be a node.Server, not {type(found).__name__}{_servers_in(module)}")


def _module(name: str, spec: str, base: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise UsageError(f"app {spec}: no module {exc.name}, neither in {base} nor installed") from None
        raise _failed(spec, exc) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (the user's module: anything may happen in it)
        raise _failed(spec, exc) from None


def _failed(spec: str, exc: BaseException) -> UsageError:
    return UsageError(f"{users_traceback(exc)}\napp {spec}: importing it failed: {one_line(exc)}")


def users_traceback(exc: BaseException) -> str:
    """Return the traceback of `exc` from the user's code on: without ours and the import machinery, the last frames."""
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith("<frozen importlib") and not _is_ours(frame.filename)
    ]
    lines = traceback.format_list(frames[-FRAMES:]) + traceback.format_exception_only(exc)
    return "".join(lines).rstrip()


def one_line(exc: BaseException) -> str:
    """Return type and text of `exc`."""
    if isinstance(exc, FlotillaError):
        return str(exc)
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _is_ours(filename: str) -> bool:
    return filename in (__file__, importlib.__file__)


def _servers_in(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Server)]
    return f"; it has {', '.join(f'{module.__name__}:{name}' for name in names)}" if names else ""
