"""Runs a server that knows nothing of supervisors, and ends it when its supervisor is gone for good.

It passes signals on, and ends as the server ended.  On Linux the kernel ends the server if this process is killed.
Standard library alone, so that it is small and starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.outlive import Outliving, Terms, Turn

PR_SET_PDEATHSIG = 1


def command(*server: str) -> tuple[str, ...]:
    """Return the command line that runs `server` under guard; `--lifeline-fd N` has to be added to it."""
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cluster.guard import main; main(sys.argv[1:])"
    # -I -S: nothing of the user's environment or site-packages.
    return (sys.executable, "-I", "-S", "-c", start, str(Path(__file__).parents[1]), *server)


def main(words: Sequence[str]) -> None:
    """Run the command line `words`, whose last two are `--lifeline-fd N`, to its end, and end likewise."""
    *argv, _, lifeline = words
    os.set_inheritable(int(lifeline), False)
    passed_on = (signal.SIGTERM, signal.SIGINT)
    # Who signals us before the server runs means the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    server = _start(argv)

    def end(*_: object) -> None:
        os.kill(server, signal.SIGTERM)

    for number in passed_on:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    # In a thread of its own: signals are this one's, and it may only wait.
    Outliving(int(lifeline), Terms.given() or Terms(0, Path()), _on_turn).start()
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    for number in passed_on:
        # Once it is reaped its pid may be somebody else's.
        signal.signal(number, signal.SIG_IGN)
    _end_like(os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]))


def _start(argv: Sequence[str]) -> int:
    import ctypes

    libc = ctypes.CDLL(None)
    guard = os.getpid()
    if server := os.fork():
        return server
    # There is no thread yet, so this may do more than exec.
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            # It died before we had asked.
            os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execv(argv[0], list(argv))
    except OSError as exc:
        sys.stderr.write(f"{argv[0]}: {exc.strerror}\n")
        sys.stderr.flush()
        os._exit(1)


def _on_turn(turn: Turn) -> None:
    if turn is Turn.OVER:
        os.kill(os.getpid(), signal.SIGTERM)


def _end_like(status: int) -> None:
    if status < 0:
        # The supervisor shall see what happened to the server.
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.stderr.flush()
    os._exit(status)
