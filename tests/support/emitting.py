"""What a worker does: emits from a process of its own, or from a fork.

Run as `python -m tests.support.emitting URL process|fork`.
"""

from __future__ import annotations

import os
import sys

from node import SyncEmitter


def main(url: str, what: str) -> None:
    emitter = SyncEmitter(url)
    emitter.emit("said", f"{what} before")
    if what == "fork" and os.fork() == 0:
        # As a server that loads the application before it forks its workers.
        emitter.emit("said", "fork child")
        emitter.close()
        os._exit(0)
    elif what == "fork":
        os.wait()
    emitter.emit("said", f"{what} after")
    loaded = {"aiohttp", "socketio", "engineio"} & sys.modules.keys()
    assert not loaded, loaded


if __name__ == "__main__":
    main(*sys.argv[1:])
