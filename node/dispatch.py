"""What clients say, and what becomes of it: packets to handlers, what handlers return to acknowledgements.

It is the engine's Handler.  An event goes from the session to its handler in plain calls; only a handler that is a
coroutine function gets a task.  What must not overlap (while a connect or disconnect handler runs; with `ordered`,
every handler of a client) waits in the peer and is done by one task, one after the other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from node.admission import Admission
from node.belongings import Belongings
from node.clients import ClientManager
from node.codec import ACK, CONNECT, EVENT, BadPacket, Codec, Packet, Partial
from node.handling import HANDLER_FAILED, Handling, facts
from node.patience import Patience
from node.peer import Ended, Kept, Peer
from node.rooms import Client, State
from node.routes import Route, Routes, awaited
from node.session import CLIENT_DISCONNECT, TRANSPORT_ERROR

if TYPE_CHECKING:
    from node.server import Server
    from node.session import Session

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Packets of one session that may wait while its connect handler, or with `ordered` any handler of it, runs."""

MOST_PARTIAL_MESSAGES = 10
"""How many times the largest message a packet with its attachments may be."""

_CONNECTED = State.CONNECTED


class Dispatcher:
    """Takes what comes from the sessions of `server`."""

    def __init__(self, server: Server, codec: Codec, routes: Routes) -> None:
        self._server = server
        self._codec = codec
        self._routes = routes
        self._admission = Admission(server, codec, routes)
        self.patience = Patience()
        self.ordered = False
        self.handling = Handling()
        self.moving = Belongings(server, codec, self)

    @property
    def _manager(self) -> ClientManager:
        manager: ClientManager = self._server.manager
        return manager

    # From the engine

    def opened(self, session: Session) -> None:
        self._server.start_manager()
        session.client = Peer(session)
        self.patience.begin(session)

    def received(self, session: Session, data: str | bytes) -> None:
        peer: Peer = session.client
        try:
            if peer.partial is not None:
                self._add(peer, peer.partial, data)
                return
            packet = self._codec.decode(data)
            if isinstance(packet, Packet):
                self._take(peer, packet)
            else:
                peer.partial = packet
        except BadPacket as exc:
            log.info("client dropped: not Socket.IO", extra={"sid": session.sid, "reason": str(exc)})
            session.close(TRANSPORT_ERROR)

    def ended(self, session: Session, reason: str) -> None:
        self.patience.end(session)
        peer: Peer | None = session.client
        if peer is None:
            return
        peer.partial = None
        if peer.waiting is not None:
            peer.waiting.append(Ended(reason))
        elif len(peer):
            self._begin(peer, Ended(reason))

    # Packets

    def _add(self, peer: Peer, partial: Partial, data: str | bytes) -> None:
        packet = partial.add(data)
        if packet is not None:
            peer.partial = None
            self._take(peer, packet)
        elif partial.size > MOST_PARTIAL_MESSAGES * self._server.eio.max_http_buffer_size:
            raise BadPacket("its attachments are too large, all together")

    def _take(self, peer: Peer, packet: Packet) -> None:
        kind = packet.kind
        if kind == CONNECT:
            peer.greeted = True
        elif not peer.greeted:
            # Protocol, "Connection to a namespace": CONNECT comes first.
            raise BadPacket("another packet before the first CONNECT")
        elif kind == ACK:
            # Also while others wait: what they wait for may be this.
            self._acknowledged(peer, packet)
            return
        elif kind == EVENT and peer.waiting is None and not self.ordered:
            client = peer.find(packet.namespace)
            if client is not None:
                self._event(client, packet)
            return
        if peer.waiting is None:
            self._begin(peer, packet)
        elif len(peer.waiting) < MOST_WAITING:
            peer.waiting.append(packet)
        else:
            raise BadPacket(f"more than {MOST_WAITING} packets while a handler runs")

    def _begin(self, peer: Peer, first: Packet | Ended) -> None:
        self.patience.end(peer.session)
        self.do(peer, deque([first]))

    def do(self, peer: Peer, waiting: deque[Packet | Ended]) -> None:
        """Do what waits, and what comes meanwhile, one after the other."""
        peer.waiting = waiting
        self.handling.start(self._work(peer, waiting), peer)

    async def _work(self, peer: Peer, waiting: deque[Packet | Ended]) -> None:
        try:
            while waiting:
                await self._do(peer, waiting.popleft())
        except Exception:
            log.exception("session ended: a packet could not be handled", extra={"sid": peer.session.sid})
            peer.session.abort(TRANSPORT_ERROR)
        finally:
            if peer.waiting is waiting:
                peer.waiting = None
                if type(waiting) is Kept:
                    waiting.done()
        self.watch(peer)

    def watch(self, peer: Peer) -> None:
        """End the session if it stays without a namespace."""
        if not len(peer) and peer.session.is_open:
            self.patience.begin(peer.session)

    async def _do(self, peer: Peer, job: Packet | Ended) -> None:
        if type(job) is Ended:
            for each in peer.clients():
                await self.leave(each, job.reason)
            return
        assert type(job) is Packet
        if job.kind == CONNECT:
            await self._admission.admit(peer, job.namespace, job.data)
            return
        client = peer.find(job.namespace)
        if client is None:
            log.debug("packet ignored: not connected", extra={"sid": peer.session.sid, "namespace": job.namespace})
        elif job.kind != EVENT:
            await self.leave(client, CLIENT_DISCONNECT)
        elif self.ordered:
            await self._event_in_order(client, job)
        else:
            self._event(client, job)

    async def leave(self, client: Client, reason: str) -> None:
        """Run the disconnect handler of `client`, who then is gone."""
        if client.state is not State.CONNECTED:
            return
        namespace, sid = client.namespace, client.sid
        self._manager.pre_disconnect(sid, namespace=namespace)
        await self.disconnected(client, reason)
        await self._manager.disconnect(sid, namespace=namespace, ignore_queue=True)

    async def disconnected(self, client: Client, reason: str) -> None:
        """Run its disconnect handler."""
        route = self._routes.find(client.namespace, "disconnect")
        if self._server.observer is not None:
            self._server.observer.left(client, reason)
        if route is not None:
            try:
                await route.call(client.sid, reason)
            except Exception:
                log.exception(HANDLER_FAILED, extra=facts(client, "disconnect"))
        self._server.take_user(client.sid)

    # Events

    def _event(self, client: Client, packet: Packet) -> None:
        route = self._route(client, packet)
        if route is None:
            return
        arguments = (*route.prefix, client.sid, *packet.data[1:])
        if not route.fewest <= len(arguments) <= route.most:
            self._misfit(client, packet)
        elif route.is_async:
            self._go_on(client, packet, route.handler(*arguments))
        else:
            try:
                result = route.handler(*arguments)
                if result is None or not hasattr(result, "__await__"):
                    self._answer(client, packet, result)
                    return
            except Exception:
                log.exception(HANDLER_FAILED, extra=facts(client, packet.data[0]))
                return
            self._go_on(client, packet, awaited(result))

    def _go_on(self, client: Client, packet: Packet, handling: Coroutine[Any, Any, Any]) -> None:
        """Let the handler run as a task, and acknowledge the event after it, if it asks for that."""
        work = handling if packet.id is None else self._handle(client, packet, handling)
        self.handling.start(work, (client, packet.data[0]))

    async def _event_in_order(self, client: Client, packet: Packet) -> None:
        route = self._route(client, packet)
        if route is None:
            return
        arguments = (*route.prefix, client.sid, *packet.data[1:])
        if not route.fits(len(arguments)):
            self._misfit(client, packet)
            return
        try:
            self._answer(client, packet, await awaited(route.handler(*arguments)))
        except Exception:
            log.exception(HANDLER_FAILED, extra=facts(client, packet.data[0]))

    async def _handle(self, client: Client, packet: Packet, result: Any) -> None:
        try:
            self._answer(client, packet, await result)
        except Exception:
            log.exception(HANDLER_FAILED, extra=facts(client, packet.data[0]))

    def _route(self, client: Client, packet: Packet) -> Route | None:
        if client.state is not _CONNECTED:
            log.debug("event ignored: not connected", extra={"sid": client.sid, "namespace": packet.namespace})
            return None
        server = self._server
        if server.is_chatty:
            server.logger.info('received event "%s" from %s [%s]', packet.data[0], client.sid, packet.namespace)
        if server.observer is not None:
            server.observer.received(client, packet.data)
        return self._routes.find(packet.namespace, packet.data[0])

    def _answer(self, client: Client, packet: Packet, result: Any) -> None:
        """Acknowledge an event with what its handler returned: a tuple is several arguments."""
        if packet.id is None:
            return
        if result is None:
            arguments = []
        elif isinstance(result, tuple):
            arguments = list(result)
        else:
            arguments = [result]
        client.session.send(self._codec.ack(packet.namespace, packet.id, arguments))

    def _misfit(self, client: Client, packet: Packet) -> None:
        """A client sent other arguments than the handler takes; that is no fault of the application."""
        log.warning(
            "event dropped: its handler takes other arguments",
            extra={"event": packet.data[0], "arguments": len(packet.data) - 1, "sid": client.sid},
        )

    def _acknowledged(self, peer: Peer, packet: Packet) -> None:
        client = peer.find(packet.namespace)
        if client is None or packet.id is None:
            return
        reply = self._manager.reply_to(client.sid, packet.id)
        if reply is not None:
            reply(*packet.data)
        else:
            self.handling.start(self._manager.trigger_callback(client.sid, packet.id, packet.data), peer)
        if type(peer.waiting) is Kept:
            peer.waiting.acknowledged.set()
