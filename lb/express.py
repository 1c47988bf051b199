"""The short way: a connection whose first bytes are one whole upgrade request goes to its node without any ado.

Of a WebSocket to a node on this host nothing is left here when it is open.  So when one look at a new connection shows
all that is needed, neither a transport nor a task of the event loop is made for it: this halves what a handshake costs.
Nor is one made for those that wait for their turn (lb/turnstile.py): in a reconnect storm they are most.
Whatever is not that simple, or goes wrong, takes the long way (lb/downstream.py, lb/upgrade.py) as if nothing had been
tried: the client has not been sent a byte, and nothing was read that is not given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.handoff import Taken
from lb.access import AccessLog
from lb.affinity import Client, Recogniser
from lb.arrived import Arrived
from lb.errors import BalancerError
from lb.guards import Guards
from lb.handoff import Handoffs
from lb.headers import Via
from lb.limits import Admission
from lb.offer import Answer, Arrival
from lb.peeking import has_ended
from lb.plain import PlainUpgrade, read_upgrade
from lb.pool import Path
from lb.route import Choice
from lb.turnstile import Turnstile
from lb.upgrade import head_for


class Express:
    """Takes the connections that can go the short way."""

    reads = True

    def __init__(
        self,
        recogniser: Recogniser,
        guards: Guards,
        turnstile: Turnstile,
        handoffs: Handoffs,
        cookie_for: Callable[[str], str],
        trace: Callable[[], bytes],
        access: AccessLog,
        admission: Admission,
    ) -> None:
        self._recogniser = recogniser
        self._guards = guards
        self._turnstile = turnstile
        self._handoffs = handoffs
        self._cookie_for = cookie_for
        self._trace = trace
        self._access = access
        self._admission = admission
        self._loop = asyncio.get_running_loop()

    def send(self, arrived: Arrived, gone: Callable[[], None], back: Callable[[Arrived], None]) -> Arrived | None:
        """Return None if `arrived` is on its way to a node: then either `gone` or `back` is called, once, later, or
        neither if the client goes before.

        Else return what has to go the long way.
        """
        upgrade = read_upgrade(arrived.received)
        if upgrade is None:
            return arrived
        try:
            client = self._recogniser.recognise(upgrade.target, upgrade.cookies, arrived.peer, upgrade.forwarded_for)
            self._guards.check("GET", upgrade.target, upgrade.headers, client, None)
            arrived.passed = True
            choice = self._turnstile.pass_now(client)
            newcomer = _Newcomer(self, arrived, upgrade, client, gone, back)
            if choice is not None:
                return None if self.take(newcomer, choice) else arrived
            self._wait(newcomer)
        except BalancerError:
            return arrived
        return None

    def take(self, newcomer: _Newcomer, choice: Choice) -> bool:
        """Offer a connection to the node of `choice`; return False if that is in vain."""
        arrived, upgrade, node = newcomer.arrived, newcomer.upgrade, choice.node
        arrived.choice = choice  # for the long way, where it need not be another turn
        if node.path is not Path.HANDOFF:
            return False
        via = Via(arrived.peer, self._recogniser.trusts(arrived.peer), self._trace())
        cookie = self._cookie_for(node.name) if choice.stick else None
        asked = self._access.asked("GET", upgrade.target, upgrade.headers, via) if self._access.is_on else None
        try:
            received = head_for(node, upgrade.target, upgrade.headers, via) + upgrade.early
            arrival = Arrival(arrived.peer, arrived.at, asked)
            self._handoffs.offer(node, arrival, arrived.sock.fileno(), received, cookie, newcomer.answered)
        except BalancerError:
            return False
        return True

    def _wait(self, newcomer: _Newcomer) -> None:
        """Let it wait for its turn.  Raises Busy."""
        newcomer.place = self._turnstile.wait(newcomer)
        self._loop.add_reader(newcomer.arrived.sock, self._heard, newcomer)

    def _heard(self, newcomer: _Newcomer) -> None:
        """A client that waits has sent more, which its node will read, or is gone."""
        self.stop_listening(newcomer)
        arrived = newcomer.arrived
        if has_ended(arrived.sock):
            self._turnstile.give_up(newcomer.place)
            arrived.sock.close()
            self._admission.leave(arrived.peer)

    def stop_listening(self, newcomer: _Newcomer) -> None:
        """Leave what else the client sends in its socket."""
        self._loop.remove_reader(newcomer.arrived.sock)


class _Newcomer:
    """A client whose upgrade request is all there: on its way, or waiting for its turn."""

    __slots__ = ("_back", "_express", "_gone", "arrived", "client", "place", "upgrade")

    is_gone = False

    def __init__(
        self,
        express: Express,
        arrived: Arrived,
        upgrade: PlainUpgrade,
        client: Client,
        gone: Callable[[], None],
        back: Callable[[Arrived], None],
    ) -> None:
        self.arrived = arrived
        self.upgrade = upgrade
        self.client = client
        self.place = 0
        self._express = express
        self._gone = gone
        self._back = back

    def called(self, outcome: Choice | BalancerError) -> None:
        """Its turn has come, or it has waited in vain: the long way says so."""
        self._express.stop_listening(self)
        if isinstance(outcome, BalancerError):
            self.arrived.choice = outcome
        elif self._express.take(self, outcome):
            return
        self._back(self.arrived)

    def answered(self, answer: Answer) -> None:
        """The node has taken the connection, or never will."""
        if isinstance(answer, Taken):
            self.arrived.sock.close()  # our copy; the connection is the node's
            self._gone()
        else:
            self.arrived.choice = None  # not that node again
            self._back(self.arrived)
