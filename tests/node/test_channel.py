"""One WebSocket from its first message to its end, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cluster.ends import By
from node.channel import Channel, ChannelLimits, NotQuiet
from node.deflate import deflate
from node.farewell import MOVED, Fate
from node.frames import frame
from tests.lb.conftest import Run
from tests.support.waiting import eventually, lastingly
from tests.support.websockets import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    Heard,
    Listener,
    client_frame,
    close,
    connected_pair,
    frames_in,
    text,
)

QUICK = ChannelLimits(max_message_bytes=1000, close_timeout_s=0.3)
PATIENT = ChannelLimits(max_message_bytes=1000, close_timeout_s=60)


@dataclass
class Ends:
    """Both ends of a connection."""

    channel: Channel
    listener: Listener
    client: socket.socket
    data: bytes = b""
    went: list[Fate] = field(default_factory=list)

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def hear(self, count: int = 1) -> list[Heard]:
        """Wait until the client has that many frames, and return all."""
        async with asyncio.timeout(30):
            while len(frames_in(self.data)[0]) < count:
                piece = await asyncio.get_running_loop().sock_recv(self.client, 65536)
                assert piece, f"the end came early, after {self.data!r}"
                self.data += piece
        return frames_in(self.data)[0]

    async def hear_all(self) -> list[Heard]:
        """Read to the end of the connection."""
        async with asyncio.timeout(30):
            while piece := await asyncio.get_running_loop().sock_recv(self.client, 65536):
                self.data += piece
        frames, rest = frames_in(self.data)
        assert rest == b""
        return frames

    async def ended(self, code: int, reason: str | None = None) -> None:
        """Wait for the end as the receiver hears of it, and for the end of the connection."""
        await eventually(lambda: bool(self.listener.ends and self.went))
        assert len(self.listener.ends) == len(self.went) == 1
        assert self.listener.ends[0][0] == code
        assert reason is None or self.listener.ends[0][1] == reason


@asynccontextmanager
async def ends(limits: ChannelLimits = PATIENT, *, deflates: int = 0) -> AsyncIterator[Ends]:
    """Give a channel on a real socket; in the end it is gone, and was closed once."""
    server, client = await connected_pair()
    listener, went = Listener(), list[Fate]()
    channel = Channel(listener, limits, deflates=deflates, on_end=went.append)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: channel, server)
    both = Ends(channel, listener, client, went=went)
    try:
        yield both
    finally:
        client.close()
        channel.abort()
        await eventually(lambda: bool(went))
        assert (len(both.listener.ends), len(went)) == (1, 1)


def test_messages_come_in_order_whatever_lies_between(run: Run) -> None:
    """Text, binary data, fragments, pings; pongs are ignored."""

    async def main() -> None:
        async with ends() as both:
            await both.say(text("short") + text("é" * 100) + client_frame(FIN | BINARY, b"\x00\xff"))
            await both.say(client_frame(TEXT, b"a") + client_frame(FIN | PING, b"p") + client_frame(FIN | PONG, b"q"))
            await both.say(client_frame(0, b"b") + client_frame(FIN, b"c"))
            await eventually(lambda: both.listener.messages == ["short", "é" * 100, b"\x00\xff", "abc"])
            assert await both.hear() == [Heard(FIN | PONG, b"p")]

    run(main)


def test_the_client_closes(run: Run) -> None:
    """Its code comes back, what was written goes first, our FIN follows, and the receiver hears the code."""

    async def main() -> None:
        for code, reason in ((1000, b"bye"), (1001, b""), (4321, "ä".encode())):
            async with ends() as both:
                both.channel.write(b"\x82\x01x")
                await both.say(close(code, reason))
                assert await both.hear_all() == [Heard(0x82, b"x"), Heard(0x88, struct.pack("!H", code))]
                both.client.close()
                await both.ended(code, reason.decode())
                assert not both.channel.write(b"\x82\x01x")

    run(main)


def test_the_client_closes_without_a_code(run: Run) -> None:
    """So does our answer."""

    async def main() -> None:
        async with ends() as both:
            await both.say(close())
            assert await both.hear_all() == [Heard(0x88, b"")]
            both.client.close()
            await both.ended(1005, "")

    run(main)


def test_we_close(run: Run) -> None:
    """What was written goes first; what the client still says is not heard; its close frame ends the connection."""

    async def main() -> None:
        async with ends() as both:
            both.channel.write(b"\x82\x01x")
            both.channel.close(4001, "enough")
            both.channel.close(4002, "twice")
            assert not both.channel.write(b"\x82\x01y")
            assert await both.hear(2) == [Heard(0x82, b"x"), Heard(0x88, struct.pack("!H", 4001) + b"enough")]
            await both.say(text("late") + client_frame(FIN | PING, b"late"))
            await lastingly(lambda: not both.listener.ends, 0.05)
            await both.say(close(4001))
            assert len(await both.hear_all()) == 2
            both.client.close()
            await both.ended(4001, "enough")
            assert both.listener.messages == []

    run(main)


def test_both_close_at_once(run: Run) -> None:
    """Each close frame answers the other."""

    async def main() -> None:
        async with ends() as both:
            await both.say(close(1000))
            both.channel.close(1001)
            assert await both.hear_all() == [Heard(0x88, struct.pack("!H", 1001))]
            both.client.close()
            await both.ended(1001)

    run(main)


def test_a_client_that_does_not_answer_our_close_is_cut(run: Run) -> None:
    """At the deadline; whether it says nothing, talks on, or reads nothing."""

    async def main() -> None:
        async with ends(QUICK) as both:
            both.channel.close()
            await both.ended(1000)
        async with ends(QUICK) as both:
            both.channel.close()
            while not both.listener.ends:
                try:
                    await both.say(text("x" * 100))
                except ConnectionError:
                    break
            await both.ended(1000)
        async with ends(QUICK) as both:
            while not both.channel.is_behind:
                both.channel.write(frame(0x82, bytes(100_000)))
                await asyncio.sleep(0)
            both.channel.close()
            await both.ended(1000)

    run(main)


def test_a_client_that_does_not_end_the_connection_is_cut(run: Run) -> None:
    """The receiver need not wait for that."""

    async def main() -> None:
        async with ends(QUICK) as both:
            await both.say(close(1000))
            await eventually(lambda: both.listener.ends == [(1000, "")])
            assert both.went == []
            await both.ended(1000)

    run(main)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (client_frame(FIN | TEXT, b"x", mask=None), 1002),
        (client_frame(FIN | 3, b"x"), 1002),
        (client_frame(FIN | RSV1 | TEXT, b"x"), 1002),
        (client_frame(FIN | TEXT, b"\xff"), 1007),
        (client_frame(FIN | TEXT, b"x" * 200 + b"\xff"), 1007),
        (client_frame(FIN | BINARY, bytes(1001)), 1009),
        (client_frame(FIN | CLOSE, b"x"), 1002),
        (close(1005), 1002),
        (close(1000, b"\xff"), 1007),
    ],
)
def test_a_broken_rule_closes_with_its_code(run: Run, said: bytes, code: int) -> None:
    """The client can read it although it was still sending; what came before is delivered, what follows is not."""

    async def main() -> None:
        async with ends() as both:
            await both.say(text("before") + said + text("behind") + bytes(200_000))
            (heard,) = await both.hear_all()
            assert heard.code == code
            assert len(heard.payload) > 2, "it says why"
            both.client.close()
            await both.ended(code)
            assert both.listener.messages == ["before"]

    run(main)


def test_a_broken_rule_while_we_close_ends_it(run: Run) -> None:
    """There is nothing more to say."""

    async def main() -> None:
        async with ends() as both:
            both.channel.close(1001)
            await both.hear(1)
            await both.say(client_frame(FIN | 3))
            assert [heard.code for heard in await both.hear_all()] == [1001]
            both.client.close()
            await both.ended(1001)

    run(main)


def test_a_connection_that_breaks_is_closed_as_lost(run: Run) -> None:
    """By a FIN without a close frame, by a reset, by ourselves."""

    async def main() -> None:
        async with ends() as both:
            both.client.shutdown(socket.SHUT_WR)
            assert await both.hear_all() == []
            await both.ended(1006, "")
        async with ends() as both:
            both.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            both.client.close()
            await both.ended(1006, "")
        async with ends() as both:
            both.channel.abort()
            await both.ended(1006, "")
            both.channel.abort()
            both.channel.close()
            both.channel.pause_reading()
            both.channel.resume_reading()
            assert not both.channel.write(b"\x82\x00")

    run(main)


def test_a_half_closed_client_that_does_not_read_is_cut(run: Run) -> None:
    """What waits for it must not keep the connection for ever."""

    async def main() -> None:
        async with ends(QUICK) as both:
            while not both.channel.is_behind:
                both.channel.write(frame(0x82, bytes(100_000)))
                await asyncio.sleep(0)
            both.client.shutdown(socket.SHUT_WR)
            await both.ended(1006)

    run(main)


def test_reading_stops_between_two_messages(run: Run) -> None:
    """Also of those that were read together; and goes on where it stopped."""

    async def main() -> None:
        class Choosy(Listener):
            channel: Channel

            def received(self, data: str | bytes) -> None:
                super().received(data)
                self.channel.pause_reading()

        async with ends() as both:
            both.channel.receiver = choosy = Choosy()
            choosy.channel = both.channel
            both.listener = choosy
            await both.say(text("a") + text("b") + text("c" * 200) + close(1000))
            for expected in (["a"], ["a", "b"], ["a", "b", "c" * 200]):
                await eventually(lambda expected=expected: choosy.messages == expected)  # type: ignore[misc]
                await lastingly(lambda expected=expected: choosy.messages == expected, 0.03)  # type: ignore[misc]
                both.channel.resume_reading()
            await both.hear_all()
            both.client.close()
            await both.ended(1000)

    run(main)


def test_a_client_that_is_not_read_from_has_to_wait(run: Run) -> None:
    """Its bytes stay in the kernel; closing reads on."""

    async def main() -> None:
        async with ends() as both:
            both.channel.pause_reading()
            sending = asyncio.ensure_future(both.say(text("x" * 900) * 20_000))
            await lastingly(lambda: not sending.done() and not both.listener.messages, 0.05)
            both.channel.close(1000)
            await sending
            await both.say(close(1000))
            await both.hear_all()
            both.client.close()
            await both.ended(1000)

    run(main)


def test_a_receiver_may_be_replaced_between_messages(run: Run) -> None:
    """What follows goes to the new one, and the end is told to it alone."""

    async def main() -> None:
        async with ends() as both:
            first, second = both.listener, Listener()

            class Leaving(Listener):
                def received(self, data: str | bytes) -> None:
                    super().received(data)
                    both.channel.receiver = second

            both.channel.receiver = leaving = Leaving()
            await both.say(text("a") + text("b"))
            await eventually(lambda: second.messages == ["b"])
            assert (leaving.messages, first.messages) == (["a"], [])
            both.channel.abort()
            await eventually(lambda: second.ends == [(1006, "")])
            assert leaving.ends == first.ends == []
            both.listener = second

    run(main)


def test_a_receiver_that_fails_loses_its_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """With the error in the log; also for what was read before."""

    class Failing(Listener):
        def received(self, data: str | bytes) -> None:
            raise LookupError(data)

    async def main() -> None:
        for paused in (False, True):
            async with ends() as both:
                both.channel.receiver = both.listener = Failing()
                if paused:
                    both.channel.pause_reading()
                    both.channel._read(text("a"))
                    both.channel.resume_reading()
                else:
                    await both.say(text("a"))
                await both.ended(1006)

    asyncio_errors = []

    async def caught() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: asyncio_errors.append(context["exception"]))
        await main()

    run(caught)
    assert [type(error) for error in asyncio_errors] == [LookupError, LookupError]


def test_an_idle_channel_holds_nothing(run: Run) -> None:
    """No reader, no backlog, no timer; it is what thousands of connections consist of."""

    async def main() -> None:
        async with ends() as both:
            await both.say(client_frame(TEXT, b"x" * 500)[:300])
            await eventually(lambda: both.channel._reader is not None)
            await both.say(client_frame(TEXT, b"x" * 500)[300:] + client_frame(FIN, b"y") + text("z"))
            await eventually(lambda: len(both.listener.messages) == 2)
            both.channel.write(b"\x82\x00")
            await both.hear(1)
            channel = both.channel
            assert (channel._reader, channel._backlog, channel._out, channel._end) == (None, None, None, None)
            assert not hasattr(channel, "__dict__")

    run(main)


def test_compressed_messages_are_read_where_that_was_agreed_on(run: Run) -> None:
    """Between others."""

    async def main() -> None:
        async with ends(deflates=15) as both:
            await both.say(client_frame(FIN | RSV1 | TEXT, deflate(b"x" * 900)) + text("plain"))
            await eventually(lambda: both.listener.messages == ["x" * 900, "plain"])
            await both.say(client_frame(FIN | RSV1 | TEXT, deflate(b"x" * 1001)))
            assert [heard.code for heard in await both.hear_all()] == [1009]

    run(main)


def test_only_a_held_and_quiet_channel_is_exported(run: Run) -> None:
    """Whatever else would lose something."""

    async def main() -> None:
        async with ends() as both:
            with pytest.raises(NotQuiet):
                both.channel.export()
            while not both.channel.is_behind:
                both.channel.write(frame(0x82, bytes(100_000)))
                await asyncio.sleep(0)
            both.channel.hold()
            with pytest.raises(NotQuiet):
                both.channel.export()
            both.channel.release()
            both.channel.close()
            both.channel.hold()
            with pytest.raises(NotQuiet):
                both.channel.export()
            both.channel.abort()
            await both.ended(1000)
            with pytest.raises(NotQuiet):
                both.channel.export()
            with pytest.raises(NotQuiet):
                both.channel.fileno()

    run(main)


def test_a_channel_goes_on_elsewhere_from_its_state(run: Run) -> None:
    """With a half-read frame in a half-read message, with what was read and not delivered, and with what waits."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ends(deflates=12) as both:
            second_half = client_frame(FIN, b"c" * 300)
            await both.say(text("first") + client_frame(TEXT, b"ab") + second_half[:100])
            await eventually(lambda: both.listener.messages == ["first"])
            both.channel.write(b"\x82\x011")
            both.channel.hold()
            both.channel.write(b"\x82\x012")
            both.channel.write(b"\x82\x013")
            quiet = loop.create_future()
            both.channel.when_drained(lambda: quiet.set_result(None))
            await quiet
            assert await both.hear(1) == [Heard(0x82, b"1")]
            state = both.channel.export()
            assert state.deflates == 12
            sock = socket.socket(fileno=os.dup(both.channel.fileno()))
            sock.setblocking(False)
            both.channel.give_away()
            await both.say(second_half[100:] + text("behind"))
            listener, went = Listener(), list[Fate]()
            moved = Channel.from_state(state, listener, PATIENT, on_end=went.append)
            moved.write(b"\x82\x014")  # before there is a transport
            await loop.connect_accepted_socket(lambda: moved, sock)
            await eventually(lambda: listener.messages == ["ab" + "c" * 300, "behind"])
            moved.write(b"\x82\x015")
            assert [heard.payload for heard in await both.hear(5)] == [b"1", b"2", b"3", b"4", b"5"]
            await both.say(close(1000))
            await both.hear_all()
            both.client.close()
            await eventually(lambda: (listener.ends, went) == ([(1000, "")], [Fate(1000, By.CLIENT)]))
            assert (both.listener.ends, both.went) == ([], [MOVED]), "here the receiver hears nothing of it"
            both.listener.ends.append((0, ""))

    run(main)


def test_a_channel_that_could_not_be_moved_goes_on(run: Run) -> None:
    """As if nothing had been."""

    async def main() -> None:
        async with ends() as both:
            both.channel.hold()
            both.channel.write(b"\x82\x01a")
            await both.say(text("x"))
            await lastingly(lambda: not both.listener.messages, 0.03)
            both.channel.export()
            both.channel.release()
            assert await both.hear(1) == [Heard(0x82, b"a")]
            await eventually(lambda: both.listener.messages == ["x"])
            both.channel.write(b"\x82\x01b")
            await both.hear(2)

    run(main)
