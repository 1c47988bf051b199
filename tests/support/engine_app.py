"""Applications for `python -m node`: Engine.IO alone, that says back what it hears; `slow` has a slow heartbeat."""

from __future__ import annotations

from node import Server
from tests.support.engine import Heard

INTERVAL_S, TIMEOUT_S = 0.3, 1.0


sio = Server(cors_allowed_origins="*", ping_interval=INTERVAL_S, ping_timeout=TIMEOUT_S)
slow = Server(cors_allowed_origins="*")
for _each in (sio, slow):
    _each.eio.handler = Heard()
