"""The writing half of a channel: one write per client and turn, nothing lost or reordered, and never more than fits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.channel import Channel, ChannelLimits
from node.cork import CORK_BYTES, running_cork
from node.frames import BINARY, PONG, frame
from node.outgoing import HIGH_WATER_BYTES
from tests.lb.conftest import Run
from tests.support.waiting import eventually
from tests.support.websockets import FIN, PING, Listener, client_frame, connected_pair, frames_in


class Wire(asyncio.Transport):
    """A transport whose client takes as much as the test lets it."""

    def __init__(self, channel: Channel, takes: int = 1 << 40) -> None:
        super().__init__()
        self.channel, self.takes = channel, takes
        self.writes: list[bytes] = []
        self.buffer = self.taken = b""
        self.is_paused = self.eof = self.gone = False
        self.high, self.low = 65536, 16384
        channel.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.gone
        assert not self.eof
        self.writes.append(bytes(data))
        self.buffer += data
        self.take(0)

    def take(self, more: int) -> None:
        """Let the client take `more` bytes."""
        self.takes += more
        count = min(self.takes, len(self.buffer))
        self.taken, self.buffer = self.taken + self.buffer[:count], self.buffer[count:]
        self.takes -= count
        if len(self.buffer) > self.high and not self.is_paused:
            self.is_paused = True
            self.channel.pause_writing()
        elif len(self.buffer) <= self.low and self.is_paused:
            self.is_paused = False
            self.channel.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = 65536 if high is None else high
        self.low = self.high // 4 if low is None else low
        self.take(0)

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.1", 5) if name == "peername" else default

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.gone

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Nothing comes anyway."""

    def resume_reading(self) -> None:
        """Nothing comes anyway."""

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            asyncio.get_running_loop().call_soon(self.channel.connection_lost, None)


def numbered(size: int = 20) -> Iterator[bytes]:
    """Yield frames that can be told apart."""
    number = 0
    while True:
        yield frame(BINARY, b"%0*d" % (size, number))
        number += 1


def test_what_is_written_in_one_turn_goes_out_in_one_write(run: Run) -> None:
    """For each client; and what is written in the next, in the next."""

    async def main() -> None:
        channels = [Channel(Listener(), ChannelLimits()) for _ in range(3)]
        wires = [Wire(channel) for channel in channels]
        for part in (b"a", b"b", b"c"):
            for channel in channels[:2]:
                assert channel.write(frame(BINARY, part))
        assert [wire.writes for wire in wires] == [[], [], []]
        await asyncio.sleep(0)
        once = b"\x82\x01a\x82\x01b\x82\x01c"
        assert [wire.writes for wire in wires] == [[once], [once], []]
        channels[0].write(b"\x82\x00")
        await asyncio.sleep(0)
        assert wires[0].writes == [once, b"\x82\x00"]

    run(main)


def test_what_goes_to_many_is_joined_once(run: Run) -> None:
    """They share it: joining costs nothing from the second client on."""

    async def main() -> None:
        channels = [Channel(Listener(), ChannelLimits()) for _ in range(3)]
        wires = [Wire(channel) for channel in channels]
        for part in (b"\x82\x01a", b"\x82\x01b", b"\x82\x01c"):
            for channel in channels:
                channel.write(part)
        outs = {id(channel._out) for channel in channels}
        assert len(outs) == 1
        await asyncio.sleep(0)
        assert {wire.taken for wire in wires} == {b"\x82\x01a\x82\x01b\x82\x01c"}

    run(main)


def test_much_in_one_turn_does_not_wait_for_its_end(run: Run) -> None:
    """Joining longer and longer pieces would cost more than writing."""

    async def main() -> None:
        channel = Channel(Listener(), ChannelLimits())
        wire = Wire(channel)
        sent = [next_frame for next_frame, _ in zip(numbered(100), range(1000), strict=False)]
        for each in sent:
            channel.write(each)
        await asyncio.sleep(0)
        assert b"".join(wire.writes) == b"".join(sent)
        assert max(map(len, wire.writes)) < CORK_BYTES + 200
        assert len(wire.writes) < 10

    run(main)


def test_a_transport_that_fails_keeps_nobody_elses_messages(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, its connection ends, and the others are written to."""

    async def main() -> None:
        listener = Listener()
        broken, sound = Channel(listener, ChannelLimits()), Channel(Listener(), ChannelLimits())
        wire, other = Wire(broken), Wire(sound)
        wire.eof = True  # fails in write()
        broken.write(b"\x82\x00")
        sound.write(b"\x82\x00")
        await asyncio.sleep(0)
        assert other.taken == b"\x82\x00"
        await eventually(lambda: listener.ends == [(1006, "")])

    run(main)
    assert [record.getMessage() for record in caplog.records] == ["write failed"]


def test_each_event_loop_has_a_cork(run: Run) -> None:
    """Of its own, once."""

    async def main() -> None:
        cork = running_cork()
        assert running_cork() is cork
        assert not cork.dirty

    run(main)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 40_000)),
        st.tuples(st.just("take"), st.integers(1, 100_000)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("drained"), st.just(0)),
        st.tuples(st.just("hold"), st.just(0)),
        st.tuples(st.just("release"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(_steps)
def test_however_a_client_reads_it_gets_everything_in_order(steps: list[tuple[str, int]]) -> None:
    """Corked, backed up, held, drained: the bytes are those that were written."""

    async def main() -> None:
        channel = Channel(Listener(), ChannelLimits(slow_consumer_bytes=1 << 30))
        wire, source, sent, drained, asked = Wire(channel, takes=0), numbered(), b"", list[int](), 0
        for step, size in steps:
            if step == "write":
                frames = next(source) + frame(BINARY, b"x" * size)
                assert channel.write(frames)
                sent += frames
            elif step == "take":
                wire.take(size)
            elif step == "drained":
                channel.when_drained(lambda: drained.append(1))
                asked += 1
            elif step == "turn":
                await asyncio.sleep(0)
            elif step == "hold":
                channel.hold()
            else:
                channel.release()
            assert channel.waiting_bytes + len(wire.taken) == len(sent)
            assert sent.startswith(wire.taken)
        channel.release()
        wire.take(1 << 40)
        for _ in range(3):
            await asyncio.sleep(0)
        assert wire.taken == sent
        assert len(drained) == asked, "each is told once"
        assert (channel.waiting_bytes, channel.is_behind) == (0, False)

    asyncio.run(main())


def test_who_waits_is_told_when_all_has_left_and_not_before(run: Run) -> None:
    """Also when less waits than the transport may hold, when nothing waits, and when the connection ends."""

    async def main() -> None:
        channel = Channel(Listener(), ChannelLimits())
        wire, told = Wire(channel, takes=0), list[str]()
        channel.when_drained(lambda: told.append("nothing waits"))
        assert told == []
        await asyncio.sleep(0)
        assert told == ["nothing waits"]
        channel.write(frame(BINARY, bytes(98)))
        channel.when_drained(lambda: told.append("sent"))
        wire.take(99)
        await asyncio.sleep(0)
        assert told == ["nothing waits"]
        wire.take(1)
        await asyncio.sleep(0)
        assert told == ["nothing waits", "sent"]
        channel.write(b"\x82\x00")
        channel.when_drained(lambda: told.append("gone"))
        channel.abort()
        await asyncio.sleep(0)
        assert told[2:] == ["gone"]
        channel.when_drained(lambda: told.append("long gone"))
        await asyncio.sleep(0)
        assert told[3:] == ["long gone"]

    run(main)


def test_a_slow_consumer_is_closed_once_too_much_waits(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """With 4008, counted and logged once; volatile messages are dropped long before."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        limits, listener = ChannelLimits(slow_consumer_bytes=200_000), Listener()
        channel = Channel(listener, limits)
        wire, part = Wire(channel, takes=0), frame(BINARY, bytes(50_000))
        taken = 0
        while channel.write(part):
            taken += 1
            await asyncio.sleep(0)
            assert channel.write(b"\x82\x01v", volatile=True) is (taken == 1), "taken only while it is not behind"
            await asyncio.sleep(0)
            assert taken < 20
        assert 200_000 <= taken * len(part) - HIGH_WATER_BYTES <= 300_000
        assert listener.ends == [], "never from within write()"
        assert not channel.write(part)
        await asyncio.sleep(0)
        assert listener.ends == [(4008, "too slow")]
        assert (limits.counts.slow_consumers, limits.counts.volatile_dropped) == (1, taken - 1)
        wire.take(1 << 40)
        frames, rest = frames_in(wire.taken)
        assert (frames[-1].code, rest, wire.eof) == (4008, b"", True), "it sees why, if it comes to read at last"
        assert len(frames) < taken, "what waited is given up"
        wire.abort()
        await asyncio.sleep(0)
        assert len(listener.ends) == 1

    run(main)
    assert [record.getMessage() for record in caplog.records] == ["client closed: it reads too slowly"]
    assert caplog.records[0].__dict__["peer"] == ("192.0.2.1", 5)


def test_one_message_larger_than_the_bound_closes_nobody(run: Run) -> None:
    """Nor does what little is sent behind it."""

    async def main() -> None:
        limits, listener = ChannelLimits(slow_consumer_bytes=10_000), Listener()
        channel = Channel(listener, limits)
        wire, large = Wire(channel, takes=0), frame(BINARY, bytes(5_000_000))
        assert channel.write(large)
        await asyncio.sleep(0)
        assert channel.write(b"\x82\x01a")
        assert channel.write(frame(BINARY, bytes(20_000)))
        wire.take(1 << 40)
        await asyncio.sleep(0)
        assert wire.taken == large + b"\x82\x01a" + frame(BINARY, bytes(20_000))
        assert channel.write(large)

    run(main)


def test_pings_pile_up_no_pongs_for_who_reads_nothing(run: Run) -> None:
    """Only the last of them is answered (RFC 6455 5.5.3)."""

    async def main() -> None:
        channel = Channel(Listener(), ChannelLimits())
        wire = Wire(channel, takes=0)
        for number in range(20_000):
            channel.data_received(client_frame(FIN | PING, b"%0100d" % number))
        assert channel.waiting_bytes < HIGH_WATER_BYTES + CORK_BYTES + 1000
        wire.take(1 << 40)
        await asyncio.sleep(0)
        frames, rest = frames_in(wire.taken)
        assert rest == b""
        assert {each.first for each in frames} == {PONG}
        assert b"%0100d" % 19_999 in {each.payload for each in frames}
        assert len(frames) < 2000

    run(main)


def test_bytes_arrive_through_real_sockets_of_a_slow_reader(run: Run) -> None:
    """The flow control of both event loops is what we take it for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, client = await connected_pair()
        listener = Listener()
        channel = Channel(listener, ChannelLimits(slow_consumer_bytes=1 << 30))
        await loop.connect_accepted_socket(lambda: channel, server)
        sent, drained = b"", list[int]()
        for number, frames in zip(range(400), numbered(10_000), strict=False):
            channel.write(frames)
            sent += frames
            if number % 50 == 0:
                channel.when_drained(lambda: drained.append(1))
                await asyncio.sleep(0)
        assert channel.is_behind
        heard = b""
        while len(heard) < len(sent):
            heard += await loop.sock_recv(client, 30_000)
        assert heard == sent
        await eventually(lambda: len(drained) == 8)
        assert not channel.is_behind
        channel.abort()
        client.close()
        await eventually(lambda: listener.ends)

    run(main)
