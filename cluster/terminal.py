"""Whether SIGHUP means "read the configuration again" or "your terminal was closed"."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The terminal that controlled this process when it was made, if any."""

    def __init__(self) -> None:
        # Under nohup the user wants us to survive the terminal.
        self._had_one = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    @property
    def is_gone(self) -> bool:
        """Whether it was closed since; then SIGHUP was the kernel's, not an operator's."""
        return self._had_one and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
