"""lb/access.py: who asked what, where it went, how it ended; nobody's credentials, nothing that we do not know."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import logs
from cluster.access import Asked, masked
from cluster.handoff import Taken
from cluster.proxies import TrustedProxies, parse_address
from cluster.trace import made
from lb.access import AccessLog
from lb.headers import Via, request_head
from tests.lb.conftest import Run
from tests.support.access_lines import Lines
from tests.support.backends import OK, Conversation, answering, backend, hanging, tunnel_echo
from tests.support.balancer import balancer, upgrade_request
from tests.support.handing import bare_node, closed, hands_over
from tests.support.upstreams import switching_protocols
from tests.support.waiting import eventually
from tests.support.websockets import close, text

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/a?", "/a?"),
        ("/socket.io/?EIO=4&transport=polling&t=x&sid=n1-abc.def", "/socket.io/?EIO=4&transport=polling&t=x&sid=***"),
        ("/x?token=hunter2&b", "/x?token=***&b"),
        ("/x?=hunter2", "/x?=***"),
        ("/x?a=b?c=hunter2", "/x?a=***"),
        ("/x?s%69d=hunter2", "/x?s%69d=***"),
    ],
)
def test_of_a_query_only_harmless_values_are_shown(target: str, shown: str) -> None:
    """A sid is a credential, however it is spelt; and who knows what applications put there."""
    assert masked(target) == shown


@given(st.text(), st.text(min_size=5))
def test_no_value_gets_through(name: str, value: str) -> None:
    """Whatever its name."""
    if name not in ("EIO", "transport", "t", "j", "b64") and not set(name + value) & set("&=?"):
        assert value not in masked(f"/?{name}={value}").removeprefix(f"/?{name}")


ADDRESSES = st.sampled_from(["203.0.113.9", "10.0.0.1", "10.9.9.9", "::ffff:192.0.2.1", "nonsense", "", "fd00::1"])
TRACES = st.sampled_from([f"00-{TRACE}-b7ad6b7169203331-01".encode(), b"00-0-0-0", b""])
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just(b"X-Forwarded-For"), st.lists(ADDRESSES, max_size=3).map(", ".join).map(str.encode)),
        st.tuples(st.sampled_from([b"traceparent", b"Traceparent"]), TRACES),
        st.tuples(st.just(b"Host"), st.just(b"h")),
    ),
    max_size=5,
)


@given(HEADERS, st.sampled_from(["203.0.113.9", "10.0.0.1", "fd00::2"]), st.sampled_from([made(), b""]))
def test_a_node_reads_off_the_rewritten_head_what_the_balancer_has_said(
    headers: list[tuple[bytes, bytes]], peer: str, trace: bytes
) -> None:
    """Client, method, target and trace of the last line are those of the first, whoever writes it."""
    proxies = TrustedProxies.of(["10.0.0.0/8", "fd00::/8"])
    via = Via(peer, parse_address(peer) in proxies, trace)
    head = request_head("GET", "/x?sid=1&EIO=4", headers, via, host="n:1", websocket=True)
    said = AccessLog(proxies).asked("GET", "/x?sid=1&EIO=4", headers, via)
    assert Asked.of_head(head + b"early", proxies) == said


@pytest.mark.parametrize("received", [b"", b"GET / HTTP/1.1\r\nHost: h\r\n", b"GET\r\n\r\n", b"\r\n\r\n"])
def test_what_is_no_whole_head_has_no_line(received: bytes) -> None:
    """A balancer of ours never hands that over."""
    assert Asked.of_head(received, TrustedProxies()) is None


def test_an_exchange_is_one_line(run: Run, lines: Lines) -> None:
    """Who, what, where, how long, how much, how it ended, which trace."""

    async def hears(conversation: Conversation, head: bytes) -> None:
        await conversation.reader.readexactly(5)
        await conversation.send(OK)

    async def main() -> None:
        async with backend(hears) as node, balancer(node.port) as lb:
            await lb.ask(
                f"POST /x?sid=abc HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n"
                f"traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n\r\nhello".encode()
            )
            line = dict(await lines.line(1))
            assert 0 < line.pop("ms") < 10_000
            sent = line.pop("bytes_out")
            assert sent > len(OK), "with the cookie"
            assert line == {
                "what": "http",
                "client": "127.0.0.1",
                "method": "POST",
                "target": "/x?sid=***",
                "trace": TRACE,
                "node": "n0",
                "status": 200,
                "bytes_in": 5,
            }
            assert len(lines.lines) == 1

    run(main)


def test_what_we_answer_ourselves_names_no_node(run: Run, lines: Lines) -> None:
    """No node is there; or the request is none."""

    async def main() -> None:
        async with balancer() as lb:
            await lb.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            line = await lines.line(1)
            assert (line["status"], "node" in line, len(line["trace"])) == (503, False, 32)
            await lb.ask(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
            line = await lines.line(2)
            assert (line["what"], line["status"]) == ("http", 400)
            await lb.ask(b"NOT HTTP\r\n\r\n")
            line = await lines.line(3)
            assert (line["what"], line["client"], line["status"]) == ("http refused", "127.0.0.1", 400)

    run(main)


def test_a_client_that_leaves_before_its_answer_is_a_499(run: Run, lines: Lines) -> None:
    """As nginx calls it: nobody was there to be sent a status."""

    async def main() -> None:
        async with hanging() as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            await eventually(lambda: lb.node().exchanges)
            caller.close()
            line = await lines.line(1)
            assert (line["target"], line["status"]) == ("/slow", 499)

    run(main)


def test_who_is_refused_at_the_door_has_a_line(run: Run, lines: Lines) -> None:
    """Too many are here, and one that never ends its head."""

    async def main() -> None:
        async with balancer(most_connections=1, head_timeout_s=0.2) as lb:
            slow = await lb.connect()
            slow.send(b"GET / HT")
            await eventually(lambda: lb.front.connections)
            await lb.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await slow.rest()
            assert [(line["what"], line["status"]) for line in lines.lines] == [
                ("http refused", 503),
                ("http refused", 408),
            ]

    run(main)


@pytest.mark.parametrize("by", ["client", "node", "balancer"])
def test_a_tunnel_is_two_lines_and_the_last_one_says_who_ended_it(run: Run, lines: Lines, by: str) -> None:
    """With the bytes of both ways."""

    async def hangs_up(conversation: Conversation, head: bytes) -> None:
        await conversation.send(switching_protocols(head))
        await conversation.send(await conversation.reader.readexactly(5))
        conversation.finish()
        await conversation.until_closed()

    async def main() -> None:
        async with backend(hangs_up if by == "node" else tunnel_echo) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(upgrade_request("/ws?sid=abc"))
            head = await caller.head()
            opened = await lines.line(1)
            assert (opened["what"], opened["node"], opened["path"]) == ("websocket opened", "n0", "tunnel")
            assert 0 < opened["ms"] < 10_000
            caller.send(b"hello")
            assert await caller.reader.readexactly(5) == b"hello"
            if by == "client":
                caller.writer.write_eof()
            elif by == "balancer":
                await lb.front.stop(0)
            else:
                await caller.rest()
                caller.writer.write_eof()
            line = await lines.line(2)
            assert line["seconds"] >= 0
            assert {name: line[name] for name in ("what", "target", "trace", "bytes_in", "bytes_out", "by")} == {
                "what": "websocket closed",
                "target": "/ws?sid=***",
                "trace": opened["trace"],
                "bytes_in": 5,
                "bytes_out": len(head) + 5,
                "by": by,
            }

    run(main)


def _node_frame(code: int) -> bytes:
    return b"\x88\x02" + code.to_bytes(2, "big")


Script = tuple[tuple[str, bytes], ...]
"""Who says what, one after the other, on an open tunnel."""

CONVERSATIONS: dict[str, tuple[Script, str, int | None]] = {
    "the client closes": ((("client", close(4001)), ("node", _node_frame(4001))), "client", 4001),
    "without a code": ((("client", close()), ("node", b"\x88\x00")), "client", 1005),
    "the node closes": ((("node", _node_frame(1001)), ("client", close(1000))), "node", 1001),
    "the client does not answer": ((("client", text("x")), ("node", _node_frame(4008))), "node", 4008),
    "the node does not answer": ((("node", b"\x81\x01x"), ("client", text("x") + close(1000))), "client", 1000),
    "nobody says a word": ((("client", text("x")), ("node", b"\x81\x01x")), "client", None),
    "a frame under way": ((("client", text("x")[:-1]), ("node", b"\x81\x05\x88")), "client", None),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_the_close_code_of_a_tunnel_is_read_off_its_last_bytes(run: Run, lines: Lines, case: str) -> None:
    """And so is who closed; if no close frame is seen, it is whose connection ended first, and no code is made up."""
    script, by, code = CONVERSATIONS[case]

    async def main() -> None:
        async with backend(_only_opens) as node, balancer(node.port) as lb:
            caller = await lb.connect()
            caller.send(upgrade_request("/ws"))
            await caller.head()
            [conversation] = node.conversations
            for who, said in script:
                ours, theirs = (caller, conversation) if who == "client" else (conversation, caller)
                ours.writer.write(said)
                assert await theirs.reader.readexactly(len(said)) == said
            caller.writer.write_eof()
            await conversation.until_closed()
            conversation.finish()
            line = await lines.line(2)
            assert (line["by"], line.get("code")) == (by, code)

    run(main)


def test_a_close_frame_right_behind_the_101_is_seen(run: Run, lines: Lines) -> None:
    """A node may accept only to say why not; and a long farewell is not looked at."""

    async def talk(conversation: Conversation, head: bytes) -> None:
        long = b"\x81\x7e\x20\x00" + bytes(8192) if b"/long" in head else b""
        await conversation.send(switching_protocols(head) + long + _node_frame(4401))
        await conversation.until_closed()
        conversation.finish()

    async def main() -> None:
        async with backend(talk) as node, balancer(node.port) as lb:
            for number, (target, code) in enumerate((("/short", 4401), ("/long", None)), 1):
                caller = await lb.connect()
                caller.send(upgrade_request(target))
                await caller.head()
                caller.send(text("x"))
                caller.writer.write_eof()
                await caller.rest()
                assert (await lines.line(2 * number)).get("code") == code

    run(main)


async def _only_opens(conversation: Conversation, head: bytes) -> None:
    """Take the upgrade, and leave the rest to the test."""
    await conversation.send(switching_protocols(head))
    await conversation.ended.wait()


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_handed_over_websocket_is_two_lines_and_says_no_more_than_its_node(
    run: Run, lines: Lines, tmp_path: Path, pieces: int
) -> None:
    """An older node tells that it ended and no more.  Whichever way it was handed over."""

    async def main() -> None:
        async with bare_node(tmp_path / "n0.sock") as node, balancer(1) as lb:
            hands_over(lb, node.path)
            caller = await lb.connect()
            request = upgrade_request("/ws")
            caller.send(request[: len(request) // pieces])
            await eventually(lambda: pieces == 1 or lb.front.connections)
            caller.send(request[len(request) // pieces :])
            link = await node.link()
            packet = await link.packet()
            link.say(Taken(packet.id))
            opened = await lines.line(1)
            assert (opened["what"], opened["path"], opened["client"]) == ("websocket opened", "handoff", "127.0.0.1")
            link.say(closed(packet.id))
            line = await lines.line(2)
            assert set(line) == {"what", "client", "method", "target", "trace", "node", "path", "seconds"}
            assert (line["what"], line["trace"]) == ("websocket closed", opened["trace"])

    run(main)


def test_off_there_is_no_line(run: Run, lines: Lines) -> None:
    """And a reload may switch it off, whatever `log.level` is."""

    async def main() -> None:
        async with backend(answering(OK)) as node, balancer(node.port) as lb:
            logs._switch_access(on=False)
            await lb.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            logs._switch_access(on=True)
            await lb.ask(b"GET /on HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await eventually(lambda: lines.lines)
            assert [line["target"] for line in lines.lines] == ["/on"]

    run(main)


def test_in_json_each_line_is_an_object(tmp_path: Path) -> None:
    """`log.format: json`, also where the log's level would hide it."""
    written: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None: ...

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.set_up("worker-0", "error", "json", Stream(), access=True)
        logging.getLogger(logs.ACCESS).info("http", extra={"status": 200, "ms": 1.5})
        [line] = map(json.loads, "".join(written).splitlines())
        assert (line["message"], line["logger"], line["status"], line["ms"]) == ("http", "access", 200, 1.5)
    finally:
        logging.basicConfig(level=level, handlers=before, force=True)
        logs._switch_access(on=False)
