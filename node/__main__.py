"""`python -m node --port 3000`: run one node."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster import lifecycle, logs
from cluster.config import EMBEDDED, NO_REDIS, Config
from cluster.config_file import Loaded, load
from cluster.config_words import without_any_password
from cluster.errors import StartError, UsageError
from cluster.redis_link import without_password
from cluster.tag import SLOT

log = logging.getLogger("node")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node as the command line says; return its exit status.  A mistake is one line and status 2."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except (StartError, UsageError) as exc:
        lifecycle.fail(exc)


def _run(arguments: argparse.Namespace) -> int:
    loaded = load(arguments.config)
    given = loaded.config
    config = _overridden(given, arguments)
    base = (arguments.base or loaded.base).resolve()
    port = given.nodes.first_port if arguments.port is None else arguments.port
    logs.set_up(arguments.name or f"n{port}", config.log.level, config.log.format, access=config.log.access)
    if arguments.redis is None and given.redis == EMBEDDED and not arguments.check:
        log.info("redis: embedded belongs to a supervisor; running alone")

    # Only now: a mistake in the command line need not wait for aiohttp and python-socketio.
    from node import app
    from node.loading import load_app

    sio = load_app(config.nodes.app, base)
    if arguments.check:
        print(f"ok: {config.nodes.app} on {config.nodes.host}:{port}, redis: {without_password(config.redis)}")
        return 0
    options = app.NodeOptions(
        loaded=Loaded(config, base, loaded.file),
        host=config.nodes.host,
        port=port,
        name=arguments.name,
        advertise=config.nodes.advertise,
        run_dir=arguments.run_dir,
        lifeline_fd=arguments.lifeline_fd,
        ready_fd=arguments.ready_fd,
    )
    return app.main(options, sio)


def _overridden(config: Config, arguments: argparse.Namespace) -> Config:
    """Return `config` with what the command line says instead.  Raises UsageError."""
    if arguments.name and not SLOT.fullmatch(arguments.name):
        raise UsageError(f"--name {arguments.name}: must match {SLOT.pattern}, for example n3000")
    values = config.dumped()
    if arguments.redis is not None:
        values["redis"] = arguments.redis
    if values["redis"] == EMBEDDED:
        values["redis"] = NO_REDIS
    for key in ("host", "advertise", "app", "max_message_bytes"):
        if (value := getattr(arguments, key)) is not None:
            values["nodes"][key] = value
    try:
        return Config.model_validate(values)
    except ValidationError as exc:
        error = exc.errors()[0]
        given = without_any_password(str(error["input"]))
        raise UsageError(f"--{str(error['loc'][-1]).replace('_', '-')} {given}: {_why(error)}") from None


def _why(error: Any) -> str:
    return str(error.get("ctx", {}).get("error", error["msg"]))


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port from 0 (any free one) to 65535")
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m node",
        description="Run one Socket.IO node.  What is not given here comes from the configuration.",
    )
    add = parser.add_argument
    add("--port", type=_port, help="port to listen on; 0: any free one (default: nodes.first_port)")
    add("--host", help="address to listen on (nodes.host)")
    add("--advertise", metavar="HOST", help="address to announce to balancers (nodes.advertise)")
    add("--name", default="", help="name in the cluster, at the head of every sid (default: n<port>[-<host id>])")
    add("--app", metavar="MODULE:ATTR", help="a node.Server (nodes.app)")
    add("--max-message-bytes", type=int, metavar="N", help="largest message of a client (nodes.max_message_bytes)")
    add("--config", type=Path, metavar="FILE", help="configuration (default: ./config.yaml if there is one)")
    add("--base", type=Path, metavar="DIR", help="where modules are looked for first (default: the configuration's)")
    add("--redis", metavar="URL", help="redis://…, rediss://…, unix://…, redis+sentinel://… or none (redis)")
    add("--run-dir", type=Path, metavar="DIR", help="the supervisor's run directory")
    add("--lifeline-fd", type=int, metavar="N", help="end when this descriptor does (a supervisor's)")
    add("--ready-fd", type=int, metavar="N", help="write `ready` here when serving (a supervisor's)")
    add("--check", action="store_true", help="check the configuration and the application, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
