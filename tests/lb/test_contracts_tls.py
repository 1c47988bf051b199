"""What TLS does in Python, as far as we rely on it without being told: in both event loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from cluster.tcp_info import untaken
from lb.certificates import Files, load
from tests.lb.conftest import Run
from tests.support.certificates import Certificates
from tests.support.waiting import eventually


def test_a_tls_transport_can_be_known_and_shows_what_we_ask_of_it(run: Run, tmp_path: Path) -> None:
    """It cannot end one direction; its socket is the real one; what waits is counted; another protocol may take it."""
    made = Certificates(tmp_path)
    context = load(Files(made.certificate, made.key)).context

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        for each in (ours, theirs):
            each.setblocking(False)
        (transport, _), (_, writer) = await asyncio.gather(
            loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=context, ssl_shutdown_timeout=1.0),
            asyncio.open_connection(sock=theirs, ssl=made.trust("http/1.1"), server_hostname="localhost"),
        )
        try:
            assert not transport.can_write_eof()
            assert transport.get_extra_info("socket").fileno() == ours.fileno()
            assert transport.get_extra_info("ssl_object").session_reused is False
            transport.set_write_buffer_limits(1024)
            transport.write(b"x" * 2**24)  # more than both buffers of the kernel grow to
            # All of that is encrypted, and hidden in the transport below; only what comes behind it is counted.
            await eventually(lambda: waits_behind(transport))
            assert untaken(transport.get_extra_info("socket")) > 0
            other = asyncio.Protocol()
            transport.set_protocol(other)
            assert transport.get_protocol() is other
        finally:
            transport.abort()
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    run(main)


def waits_behind(transport: asyncio.Transport) -> bool:
    transport.write(b"x")
    return transport.get_write_buffer_size() > 0


def test_python_lets_clients_in_that_offer_other_protocols_only(tmp_path: Path) -> None:
    """Against RFC 7301 3.2, which is why lb/client_hello.py looks for itself; once it refuses them, that may go."""
    made = Certificates(tmp_path)
    context = load(Files(made.certificate, made.key)).context
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = made.trust("h2").wrap_bio(to_client, to_server, server_hostname="localhost")
    pending = [client, server]
    while pending:
        for each in list(pending):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(each)
    assert server.selected_alpn_protocol() is None
