"""What the clients of the load generator do: echo, listen to broadcasts, or come and go; and what they count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.frames import CLOSE, FIN, TEXT, masked_frame, server_frame
from benchmarks.sio import wire
from benchmarks.sio.swarm import Client, Swarm

_MOST_REMEMBERED = 256


@dataclass
class Echoes:
    """What all echoing clients count together."""

    size: int
    sending: bool = True
    """Each sends again as soon as it has its acknowledgement."""
    recording: bool = False
    done: int = 0
    in_flight: int = 0
    changed: int = 0
    latencies_s: list[float] = field(default_factory=list)


class Echoer(Client):
    """One event in flight, acknowledged with its own text; texts and ack numbers take turns."""

    def __init__(self, swarm: Swarm, number: int, echoes: Echoes) -> None:
        super().__init__(swarm, number)
        self._echoes = echoes
        self._turns = []
        for ack in (0, 1):
            text = f"{number}:{ack}:".ljust(echoes.size, "x")
            answer = wire.acknowledged(ack, text)
            frame = wire.framed(wire.event("echo", text, ack=ack), self.key)
            self._turns.append((frame, answer, server_frame(FIN | TEXT, answer)))
        self._turn = 0
        self._answer = self._answer_frame = b""
        self._sent_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether the last one is not acknowledged yet."""
        return bool(self._answer)

    def emit(self, due: float | None = None) -> None:
        """Send the next one.  Its latency runs from when it was due, on the clock time.perf_counter; None: now."""
        frame, self._answer, self._answer_frame = self._turns[self._turn]
        self._turn ^= 1
        self._echoes.in_flight += 1
        self._sent_at = time.perf_counter() if due is None else due
        self.send(frame)

    def received(self, data: bytes) -> None:
        if data == self._answer_frame:
            self._answered()
        else:
            self.parse(data)

    def packet(self, packet: bytes) -> None:
        if packet == self._answer:
            self._answered()
        else:
            self._echoes.changed += 1
            self.end(f"not the acknowledgement that was waited for: {packet[:80]!r}")

    def gone(self) -> None:
        self._echoes.in_flight -= int(bool(self._answer))

    def _answered(self) -> None:
        echoes = self._echoes
        self._answer = self._answer_frame = b""  # whatever comes before the next is one too many
        echoes.in_flight -= 1
        if echoes.recording:
            echoes.done += 1
            echoes.latencies_s.append(time.perf_counter() - self._sent_at)
        if echoes.sending:
            self.emit()


@dataclass
class Broadcasts:
    """What all listeners count together.  Messages are numbered from 0 on, `count` of them in each `say`."""

    text: str
    count: int = 1
    recording: bool = False
    sent_at: dict[int, float] = field(default_factory=dict)
    """When each message was due to be sent, by its number."""
    deliveries: int = 0
    changed: int = 0
    duplicated: int = 0
    reordered: int = 0
    """Those that came behind a later one of the same `say`.  Others have other handlers, which run side by side."""
    latencies_s: list[float] = field(default_factory=list)
    _remembered: dict[bytes, wire.Run | None] = field(default_factory=dict)

    def run_in(self, data: bytes) -> wire.Run | None:
        """As `wire.run_of_messages`.  All clients get the same bytes, so these are parsed once."""
        if data in self._remembered:
            return self._remembered[data]
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        found = self._remembered[data] = wire.run_of_messages(data, self.text)
        return found

    def heard(self, first: int, count: int) -> None:
        """A client has got these, for the first time."""
        self.deliveries += count
        if self.recording:
            now = time.perf_counter()
            self.latencies_s += [now - self.sent_at[number] for number in range(first, first + count)]


class Listener(Client):
    """Hears all broadcasts, each once."""

    def __init__(self, swarm: Swarm, number: int, broadcasts: Broadcasts) -> None:
        super().__init__(swarm, number)
        self.where = ""
        """The name of its server, once it has said so."""
        self._broadcasts = broadcasts
        self._next = 0
        self._missing: set[int] = set()

    def ready(self) -> None:
        self.send(wire.framed(wire.event("where", ack=0), self.key))

    def say(self, first: int, count: int) -> None:
        """Have the server send so many messages to everybody."""
        what = {"first": first, "count": count, "text": self._broadcasts.text}
        self.send(wire.framed(wire.event("say", what), self.key))

    def received(self, data: bytes) -> None:
        run = self._broadcasts.run_in(data)
        if run is None:
            self.parse(data)
        elif run.first == self._next:
            self._next += run.count
            self._broadcasts.heard(run.first, run.count)
        else:
            for number in range(run.first, run.first + run.count):
                self._message(number)

    def packet(self, packet: bytes) -> None:
        number = wire.message_number(packet, self._broadcasts.text)
        if number is not None and number in self._broadcasts.sent_at:
            self._message(number)
        elif packet.startswith(b'430["') and not self.where:
            self.where = packet[5:-2].decode()
        else:
            self._broadcasts.changed += 1

    def _message(self, number: int) -> None:
        if number >= self._next:
            self._missing.update(range(self._next, number))
            self._next = number + 1
        elif number in self._missing:
            self._missing.remove(number)
            self._broadcasts.reordered += self._is_overtaken(number)
        else:
            self._broadcasts.duplicated += 1
            return
        self._broadcasts.heard(number, 1)

    def _is_overtaken(self, number: int) -> bool:
        count = self._broadcasts.count
        end = min((number // count + 1) * count, self._next)
        return any(later not in self._missing for later in range(number + 1, end))


class Visitor(Client):
    """Comes, and goes as soon as it is connected; `ended` is told of each."""

    def __init__(self, swarm: Swarm, number: int, ended: Callable[[Visitor], None]) -> None:
        super().__init__(swarm, number)
        self.started_at = time.perf_counter()
        self.ready_at = 0.0
        self._ended = ended

    def ready(self) -> None:
        self.ready_at = time.perf_counter()
        goodbye = masked_frame(FIN | CLOSE, b"\x03\xe8", self.key)  # RFC 6455 7.4.1: 1000
        self.send(wire.framed(wire.DISCONNECT, self.key) + goodbye)

    def gone(self) -> None:
        self._ended(self)
