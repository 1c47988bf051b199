"""`python -m lb`: run the stack, check its configuration, show its state."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from cluster.config import MOST_DRAIN_S
from cluster.config_file import load
from cluster.errors import StartError, UsageError
from cluster.rundir import RunDir
from cluster.version import version

COMMANDS = ("check", "status", "drain", "undrain")
ON_A_NODE = ("drain", "undrain")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(UsageError.exit_code, f"{self.prog}: {message} (--help shows what is allowed)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # The command that the supervisor starts its workers with; no user types it.
        return _work(words[1:]) if words[:1] == ["worker"] else _run(_options(words))
    except (StartError, UsageError) as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    except KeyboardInterrupt:
        # Before the event loop runs there is nothing to stop.
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    # Each command imports what it needs: `status` should not load the supervisor, nor that the balancer.
    match options.command:
        case "check":
            from lb.check import check

            return check(options.config)
        case "status":
            from lb.status import show_status

            return show_status(load(options.config).config)
        case "drain":
            from lb.operator import drain

            return drain(load(options.config).config, options.node, options.drain_s)
        case "undrain":
            from lb.operator import undrain

            return undrain(load(options.config).config, options.node)
        case _:
            from lb.stack import main as supervise

            return supervise(options.config)


def _options(words: Sequence[str]) -> argparse.Namespace:
    name = os.path.basename(sys.argv[0])
    parser = _Parser(
        prog="python -m lb" if name == "__main__.py" else name,
        description="Run a Flotilla stack: balancer, nodes and Redis, as one file says.",
        epilog="Without a command the stack runs until Ctrl-C or SIGTERM; SIGHUP applies a changed configuration.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="?",
        metavar="{check,status,drain,undrain}",
        help="check: say whether the configuration can run, and run nothing; status: show the nodes of a running stack;"
        " drain NODE: send it no new clients, and after a while its own elsewhere; undrain NODE: take that back",
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="the node to drain or undrain, as `status` names it")
    parser.add_argument(
        "--drain-s",
        type=_seconds,
        metavar="S",
        help="how many seconds the clients of a node that drains may stay (default: nodes.drain_s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: ./config.yaml if there is one, else the built-in defaults)",
    )
    parser.add_argument("--version", action="version", version=f"Flotilla {version()}")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command not in (None, *COMMANDS):
        parser.error(f"unknown command {options.command!r}; allowed: {', '.join(COMMANDS)}")
    if options.command in ON_A_NODE and not options.node:
        parser.error(f"{options.command} needs the name of a node")
    if options.node and options.command not in ON_A_NODE:
        parser.error(f"unrecognized arguments: {options.node}")
    if options.drain_s is not None and options.command != "drain":
        parser.error("--drain-s belongs to drain")
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_DRAIN_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; allowed: 0 to {MOST_DRAIN_S} seconds")
    return seconds


def _work(words: Sequence[str]) -> int:
    from lb.app import WorkerOptions
    from lb.app import main as work

    parser = _Parser(prog="python -m lb worker", allow_abbrev=False)
    for name in ("--config", "--base", "--run-dir"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--index", "--listen-fd", "--admin-fd"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--redirect-fd", "--certificates-fd", "--lifeline-fd", "--ready-fd"):
        parser.add_argument(name, type=int)
    options = parser.parse_args(words)
    return work(
        WorkerOptions(
            # Paths are relative to the user's file, not to the resolved one.
            loaded=replace(load(options.config), base=options.base),
            run_dir=RunDir(options.run_dir),
            index=options.index,
            listen_fd=options.listen_fd,
            admin_fd=options.admin_fd,
            redirect_fd=options.redirect_fd,
            certificates_fd=options.certificates_fd,
            lifeline_fd=options.lifeline_fd,
            ready_fd=options.ready_fd,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
