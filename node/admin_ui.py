"""The server's side of the Socket.IO admin UI (https://socket.io/docs/v4/admin-ui/): what it shows and what it may do.

python-socketio's own works by replacing methods of python-engineio's; this one is an Observer.  What admins see is the
same, but for the bytes in and out, which we do not count.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs

from socketio.exceptions import ConnectionRefusedError as Refused

from cluster.errors import UsageError
from node.refusal import WEBSOCKET
from node.rooms import Client, Room, Rooms
from node.routes import awaited

if TYPE_CHECKING:
    from node.server import Server

Json = dict[str, Any]

MAY_ALL = ("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")


class Instrumentation:
    """Reports what happens on `sio` to the admins in `namespace`, and does what they ask for.

    `auth` is what an admin must send (a dictionary, or a list of them), a function that decides, or False.
    `server_stats_interval` is in seconds.  In `production` mode admins get totals only.
    """

    def __init__(
        self,
        sio: Server,
        auth: Any = None,
        mode: Literal["development", "production"] = "development",
        read_only: bool = False,
        server_id: str | None = None,
        namespace: str = "/admin",
        server_stats_interval: float = 2,
    ) -> None:
        if auth is None:
            raise ValueError("auth must be specified")
        if mode not in ("development", "production"):
            raise UsageError(f"mode={mode!r}: allowed are 'development' and 'production'")
        self.sio, self.auth, self.mode, self.read_only = sio, auth, mode, read_only
        self.server_id = server_id or getattr(sio.manager, "host_id", socket.gethostname())
        self.admin_namespace = namespace
        self.server_stats_interval = server_stats_interval
        self._started = time.time()
        self._connected_at: dict[str, float] = {}
        self._polling: set[Client] = set()
        self._counted: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._register()

    @property
    def _is_detailed(self) -> bool:
        return self.mode == "development"

    def _register(self) -> None:
        self.sio.on("connect", self._admin_came, namespace=self.admin_namespace)
        if self._is_detailed:
            self.sio.observer = self
            if not self.read_only:
                for event, handler in (
                    ("emit", self._emit),
                    ("join", self._join),
                    ("leave", self._leave),
                    ("_disconnect", self._disconnect),
                ):
                    self.sio.on(event, handler, namespace=self.admin_namespace)

    def uninstrument(self) -> None:
        """Report no more; no new admin may connect."""
        self._stop()
        if self.sio.observer is self:
            self.sio.observer = None
        del self.sio.handlers[self.admin_namespace]
        self.sio.forget_routes()

    async def shutdown(self) -> None:
        """Stop reporting totals."""
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Admins

    async def _admin_came(self, sid: str, environ: Json, auth: Any = None) -> None:
        if not await self._is_allowed(auth):
            raise Refused("authentication failed")
        features = ["AGGREGATED_EVENTS"]
        if self._is_detailed:
            features += [*(() if self.read_only else MAY_ALL), "ALL_EVENTS"]
        await self.sio.emit("config", {"supportedFeatures": features}, to=sid, namespace=self.admin_namespace)
        if self._is_detailed:
            spaces = self.sio.manager.directory.spaces.values()
            everybody = [self._described(client) for space in spaces for client in space.clients.values()]
            await self.sio.emit("all_sockets", everybody, to=sid, namespace=self.admin_namespace)
        if self._timer is None:
            self._begin_totals()

    async def _is_allowed(self, given: Any) -> bool:
        if self.auth is False:
            return True
        if isinstance(self.auth, list):
            return given in self.auth
        if callable(self.auth):
            return bool(await awaited(self.auth(given)))
        return bool(given == self.auth)

    async def _emit(self, _: str, namespace: str, to: Rooms | None, event: str, *data: Any) -> None:
        await self.sio.emit(event, data, to=to, namespace=namespace)

    async def _join(self, _: str, namespace: str, room: str, to: Rooms | None = None) -> None:
        for client in self.sio.manager.directory.recipients(namespace, to):
            await self.sio.enter_room(client.sid, room, namespace=namespace)

    async def _leave(self, _: str, namespace: str, room: str, to: Rooms | None = None) -> None:
        for client in self.sio.manager.directory.recipients(namespace, to):
            await self.sio.leave_room(client.sid, room, namespace=namespace)

    async def _disconnect(self, _: str, namespace: str, close: bool = False, to: Rooms | None = None) -> None:
        for client in self.sio.manager.directory.recipients(namespace, to):
            await self.sio.disconnect(client.sid, namespace=namespace)

    # Observer

    def came(self, client: Client) -> None:
        self._connected_at[client.sid] = time.time()
        if client.session.client.session.transport != WEBSOCKET:
            self._polling.add(client)
        self._report("socket_connected", self._described(client), _now())

    def left(self, client: Client, reason: str) -> None:
        self._connected_at.pop(client.sid, None)
        self._polling.discard(client)
        self._report("socket_disconnected", client.namespace, client.sid, reason, _now())

    def received(self, client: Client, event: list[Any]) -> None:
        self._report("event_received", client.namespace, client.sid, event, _now())

    def sent(self, client: Client, event: list[Any]) -> None:
        if client.namespace != self.admin_namespace:
            self._report("event_sent", client.namespace, client.sid, event, _now())

    def entered(self, client: Client, room: Room) -> None:
        self._report("room_joined", client.namespace, room, client.sid, _now())

    def quit(self, client: Client, room: Room) -> None:
        self._report("room_left", client.namespace, room, client.sid, _now())

    def _report(self, event: str, *data: Any) -> None:
        admins = self.sio.manager.directory.recipients(self.admin_namespace, None)
        if admins:
            self.sio.manager.deliver(admins, event, data, volatile=True)

    # Totals

    def _begin_totals(self) -> None:
        self._counted = self._counts()
        self._timer = asyncio.get_running_loop().call_later(self.server_stats_interval, self._tell_totals)

    def _counts(self) -> dict[str, int]:
        engine = self.sio.eio
        return {"packetsIn": engine.messages_in, "packetsOut": engine.messages_out}

    def _tell_totals(self) -> None:
        directory = self.sio.manager.directory
        self._timer = None
        if not directory.recipients(self.admin_namespace, None):
            return  # It begins again with the next admin.
        before, at = self._counted, int(time.time()) * 1000
        sessions = self.sio.eio.sessions.values()
        spaces = {name: len(space.clients) for name, space in directory.spaces.items()}
        self._begin_totals()
        self._report(
            "server_stats",
            {
                "serverId": self.server_id,
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "uptime": time.time() - self._started,
                "clientsCount": len(sessions),
                "pollingClientsCount": sum(session.transport != WEBSOCKET for session in sessions),
                "aggregatedEvents": [
                    {"timestamp": at, "type": kind, "count": count - before[kind]}
                    for kind, count in self._counted.items()
                ],
                "namespaces": [
                    {"name": name, "socketsCount": spaces.get(name, 0)}
                    for name in sorted({*self.sio.handlers, *spaces})
                ],
            },
        )
        for client in [each for each in self._polling if each.session.client.session.transport == WEBSOCKET]:
            self._polling.discard(client)
            self._report("socket_updated", {"id": client.sid, "nsp": client.namespace, "transport": WEBSOCKET})

    def _described(self, client: Client) -> Json:
        session = client.session.client.session
        connected_at = self._connected_at.get(client.sid, 0)
        return {
            "id": client.sid,
            "clientId": session.sid,
            "transport": session.transport,
            "nsp": client.namespace,
            "data": {},
            "handshake": {
                **_handshake(session.environ),
                "issued": connected_at * 1000,
                "time": datetime.fromtimestamp(connected_at, UTC).isoformat() if connected_at else "",
            },
            "rooms": self.sio.manager.get_rooms(client.sid, client.namespace),
        }


def _handshake(environ: Mapping[str, Any]) -> Json:
    query = parse_qs(environ.get("QUERY_STRING", ""))
    return {
        "address": environ.get("REMOTE_ADDR", ""),
        "headers": {key[5:].lower(): value for key, value in environ.items() if key.startswith("HTTP_")},
        "query": {key: values[0] if len(values) == 1 else values for key, values in query.items()},
        "secure": environ.get("wsgi.url_scheme", "") == "https",
        "url": environ.get("PATH_INFO", ""),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
