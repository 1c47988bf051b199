"""What all scripts here have in common on the command line: numbers, refusals in one line, how they end."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.measure import BenchmarkError, check_platform
from benchmarks.peers import undisturbed


def run(options: argparse.Namespace, measure: Callable[[], int]) -> int:
    """Return the exit status of `measure`; 2 if it cannot measure, with the reason in one line; 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        check_platform()
        check_writable(options.json)
        return measure()
    except BenchmarkError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; everything that was started has been ended\n")
        return 130


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Hold a directory for everything that a script starts; nothing of it is left afterwards."""
    with undisturbed():
        directory = tempfile.TemporaryDirectory(prefix=f"flotilla-{name}-")
    with directory as path:
        yield Path(path)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that all scripts have which compare with nginx."""
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--nginx", default="nginx", help="the nginx program [nginx]")
    parser.add_argument("--wsload", default=os.environ.get("FLOTILLA_WSLOAD"), help="load generator to use instead")


def write_json(options: argparse.Namespace, facts: dict[str, str], measured: dict[str, Any]) -> None:
    """Write everything that was measured, unrounded, to the file that `--json` names, if it names one."""
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        content = {"facts": facts, "settings": settings} | measured
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def whole(least: int) -> Callable[[str], int]:
    """Return a type for `add_argument`: a whole number of at least `least`."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def seconds(text: str) -> float:
    """Read a time, more than 0 and at most an hour."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0 and at most 3600")
    return found


def rate(text: str) -> float:
    """Read a number of things a second, 0 included."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of messages a second")
    return found


def check_writable(file: Path | None) -> None:
    """Raise BenchmarkError if `file` cannot be written: minutes of measuring must not end there."""
    if file is not None and not (os.access(file.parent, os.W_OK) if not file.exists() else os.access(file, os.W_OK)):
        raise BenchmarkError(f"{file} cannot be written")


def nginx_program(name: str) -> str:
    """Return the path of nginx.  Raises BenchmarkError."""
    # Debian puts it where only root's PATH leads.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchmarkError(f"there is no {name}; install it (apt install nginx-light), or name it with --nginx")
    return found


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
