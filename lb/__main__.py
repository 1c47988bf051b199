"""`python -m lb`: run the stack, check its configuration, show its state."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cluster.config_file import load
from cluster.errors import StartError, UsageError
from cluster.rundir import RunDir
from cluster.version import version


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(UsageError.exit_code, f"{self.prog}: {message} (--help shows what is allowed)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (StartError, UsageError) as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    except KeyboardInterrupt:
        # Before the event loop runs there is nothing to stop.
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    # Each command imports what it needs: `status` should not load the balancer, nor a worker the supervisor.
    match options.command:
        case "check":
            from lb.check import check

            return check(options.config)
        case "status":
            from lb.status import show_status

            return show_status(load(options.config).config)
        case "worker":
            return _work(options)
        case _:
            from lb.stack import main as supervise

            return supervise(options.config)


def _work(options: argparse.Namespace) -> int:
    from lb.app import WorkerOptions
    from lb.app import main as work

    loaded = load(options.config)
    # Modules are found beside the user's file, not beside the resolved one.
    return work(
        WorkerOptions(
            loaded=type(loaded)(loaded.config, options.base, loaded.file),
            run_dir=RunDir(options.run_dir),
            index=options.index,
            listen_fd=options.listen_fd,
            admin_fd=options.admin_fd,
            lifeline_fd=options.lifeline_fd,
            ready_fd=options.ready_fd,
        )
    )


def _parser() -> argparse.ArgumentParser:
    config = _Parser(add_help=False)
    config.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="the configuration (default: ./config.yaml if there is one, else the built-in defaults)",
    )
    name = os.path.basename(sys.argv[0])
    parser = _Parser(
        prog="python -m lb" if name == "__main__.py" else name,
        description="Run a Flotilla stack: balancer, nodes and Redis, as one file says.",
        parents=[config],
        allow_abbrev=False,
    )
    parser.set_defaults(config=None)
    parser.add_argument("--version", action="version", version=f"Flotilla {version()}")
    commands = parser.add_subparsers(dest="command", metavar="{check,status}", parser_class=_Parser)
    commands.add_parser("check", parents=[config], allow_abbrev=False, help="check the configuration and run nothing")
    commands.add_parser("status", parents=[config], allow_abbrev=False, help="show the nodes of the running stack")
    _add_worker(commands, config)
    return parser


def _add_worker(commands: argparse._SubParsersAction[_Parser], config: _Parser) -> None:
    """The command that the supervisor starts its workers with; no user types it."""
    worker = commands.add_parser("worker", parents=[config], allow_abbrev=False)
    worker.add_argument("--base", type=Path, required=True)
    worker.add_argument("--run-dir", type=Path, required=True)
    worker.add_argument("--index", type=int, required=True)
    worker.add_argument("--listen-fd", type=int, required=True)
    worker.add_argument("--admin-fd", type=int, required=True)
    worker.add_argument("--lifeline-fd", type=int)
    worker.add_argument("--ready-fd", type=int)


if __name__ == "__main__":
    sys.exit(main())
