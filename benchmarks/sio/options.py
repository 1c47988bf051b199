"""What `socketio.py` and `stack.py` have in common on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.command_line import seconds, whole
from benchmarks.sio.peers import APP


def add_options(parser: argparse.ArgumentParser, clients: int) -> None:
    """Add the options that both scripts have."""
    parser.add_argument("--rounds", type=whole(1), default=3, help="each starts all afresh, in alternating order [3]")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="measured per question and side [5]")
    parser.add_argument("--clients", type=whole(1), default=clients, help=f"that hear broadcasts [{clients}]")
    parser.add_argument("--size", type=whole(16), default=64, help="characters of each text [64]")
    parser.add_argument("--app", default=APP, help=f"our application [{APP}]")
    parser.add_argument("--node", default="node", help="the Node.js program [node]")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")


def positive_rate(text: str) -> float:
    """Read how often a second something happens, more than 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of times a second, more than 0")
    return found
