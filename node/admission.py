"""Who may connect to a namespace: the connect handler decides."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from socketio.exceptions import ConnectionRefusedError as Refused

from node.codec import Codec
from node.peer import Held, Peer
from node.rooms import Client
from node.routes import Routes

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger(__name__)

MOST_NAMESPACES = 100
"""Of one session."""

PAUSE_S = 0.001
"""Between the packet that accepts a client and what comes next.

In one piece with it, the next is lost on clients that begin to listen when they learn that they are connected.
"""

UNKNOWN = {"message": "Invalid namespace"}
TOO_MANY = {"message": "Too many namespaces"}
TWICE = {"message": "Already connected"}
REJECTED = {"message": "Connection rejected by server"}
REFUSED = {"message": "Connection refused by server"}
"""What clients get in their `connect_error` event."""


class Admission:
    """Answers CONNECT packets, with the connect handlers of `server`."""

    def __init__(self, server: Server, codec: Codec, routes: Routes) -> None:
        self._server, self._codec, self._routes = server, codec, routes

    async def admit(self, peer: Peer, namespace: str, auth: Any) -> None:
        """Let the session into `namespace`, or tell it why not."""
        session, server = peer.session, self._server
        refusal = self._refusal(peer, namespace)
        if refusal is not None:
            session.send(self._codec.connect_error(namespace, refusal))
            return
        sid = await server.manager.pre_connect(session.sid, namespace)
        client = peer.find(namespace)
        assert sid is not None
        assert client is not None
        if server.always_connect:
            await self._welcome(client)
        refusal = await self._ask(client, auth)
        if peer.find(namespace) is not client:
            return  # Its own handler has disconnected it.
        if refusal is None:
            if not server.always_connect:
                await self._welcome(client)
            return
        if server.always_connect:
            server.manager.pre_disconnect(sid, namespace)
            # Without `refusal`: a JavaScript client takes a DISCONNECT packet with a payload for a broken connection.
            session.send(self._codec.disconnect(namespace))
        else:
            session.send(self._codec.connect_error(namespace, refusal))
        await server.manager.disconnect(sid, namespace, ignore_queue=True)

    def _refusal(self, peer: Peer, namespace: str) -> Any:
        if not self._is_known(namespace):
            return UNKNOWN
        if peer.find(namespace) is not None:
            return TWICE
        return TOO_MANY if len(peer) >= MOST_NAMESPACES else None

    def _is_known(self, namespace: str) -> bool:
        server = self._server
        return (
            server.namespaces == "*"
            or namespace in server.namespaces
            or namespace in server.handlers
            or namespace in server.namespace_handlers
        )

    async def _welcome(self, client: Client) -> None:
        client.session.client.session.send(self._codec.connect(client.namespace, client.sid))
        if self._server.always_connect or (isinstance(client.session, Held) and len(client.session)):
            await asyncio.sleep(PAUSE_S)
        await self._server.manager.connect(client.sid, client.namespace)

    async def _ask(self, client: Client, auth: Any) -> Any:
        """Run the connect handler; return what to refuse with, or None."""
        namespace, session = client.namespace, client.session.client.session
        if self._server.observer is not None:
            self._server.observer.came(client)
        route = self._routes.find(namespace, "connect")
        if route is None:
            return None
        try:
            return REJECTED if await route.call(client.sid, session.environ, auth or None) is False else None
        except Refused as exc:
            return exc.error_args
        except ConnectionRefusedError:
            return REFUSED
        except Exception:
            log.exception("event handler failed", extra={"event": "connect", "namespace": namespace, "sid": client.sid})
            return REJECTED
