"""A whole stack that speaks TLS, as a user starts it, with real clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import socketio
import yaml
from playwright.async_api import async_playwright, expect

from tests.support.certificates import Certificates, replace
from tests.support.ports import free_port
from tests.support.stack import Stack, running_stack
from tests.support.tools import JS, need_chromium, need_js_client, need_openssl, need_page
from tests.support.waiting import eventually

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@asynccontextmanager
async def secured(directory: Path, made: Certificates, nodes: int = 2, **lb: Any) -> AsyncIterator[Stack]:
    tls = made.section | {"redirect": f"127.0.0.1:{free_port()}"}
    async with running_stack(directory, nodes=nodes, lb={"tls": tls} | lb, log={"access": True}) as stack:
        yield stack


@asynccontextmanager
async def client_of(stack: Stack, made: Certificates, **options: Any) -> AsyncIterator[socketio.AsyncClient]:
    """Connect a real Socket.IO client, which verifies the certificate."""
    connector = aiohttp.TCPConnector(ssl=made.trust("http/1.1"))
    async with aiohttp.ClientSession(connector=connector) as session:
        client = socketio.AsyncClient(http_session=session, reconnection=False)
        await client.connect(stack.url, **options)
        try:
            yield client
        finally:
            await client.disconnect()


def presented(stack: Stack) -> bytes:
    """Return the certificate that a new handshake gets, whoever signed it."""
    host, _, port = stack.config["lb"]["listen"].partition(":")
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))


def test_a_socketio_client_goes_from_polling_to_websocket(tmp_path: Path) -> None:
    """All over TLS, to one node, through the tunnel; the log has its own bytes, and the cookie is Secure."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with secured(tmp_path, made) as stack:
            async with client_of(stack, made) as client:
                await eventually(lambda: client.transport() == "websocket")
                assert [node["tunnels"] for node in await stack.nodes() if node["tunnels"]] == [1]
                assert {node["path"] for node in await stack.nodes()} == {"tunnel"}
            async with client_of(stack, made, transports=["polling"]) as client:
                assert client.transport() == "polling"
            await eventually(lambda: "websocket closed" in stack.said())
            [closed] = [line for line in stack.said().splitlines() if "websocket closed" in line]
            sizes = dict(word.split("=", 1) for word in closed.split() if word.startswith("bytes_"))
            assert 0 < int(sizes["bytes_in"]) < 200  # a handshake of TLS alone has more
            async with aiohttp.ClientSession() as session:
                async with session.get(stack.url, ssl=made.trust()) as answer:
                    assert answer.headers["Set-Cookie"].endswith("Secure")
                plain = f"http://{stack.config['lb']['tls']['redirect']}/a?b"
                async with session.get(plain, allow_redirects=False) as answer:
                    port = stack.config["lb"]["listen"].partition(":")[2]
                    assert (answer.status, answer.headers["Location"]) == (308, f"https://127.0.0.1:{port}/a?b")

    asyncio.run(main())


def test_a_certificate_is_renewed_under_connected_clients(tmp_path: Path) -> None:
    """By itself, whatever comes of it: a broken pair is told on every channel, and a good one is used."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with secured(tmp_path, made, workers=2) as stack, client_of(stack, made) as client:
            await eventually(lambda: client.transport() == "websocket")
            first = presented(stack)

            good_key = made.key.read_bytes()
            made.issue()
            renewed_key = made.key.read_bytes()
            replace(made.key, good_key)
            await eventually(lambda: stack.said().count("certificate not reloaded: the one before stays") >= 2)
            assert await eventually(lambda: _warned(stack, "is not the key of the first certificate"))
            kinds = {event["kind"] for event in (await stack.get("/api/events"))["events"]}
            assert "certificate not reloaded: the one before stays" in kinds
            metrics = await _metrics(stack)
            assert _refused(made, True) in metrics
            assert f'flotilla_certificate_expiry_timestamp_seconds{{certificate="{made.certificate}"}} ' in metrics
            assert presented(stack) == first
            stack.process.send_signal(signal.SIGHUP)
            await eventually(lambda: "reload: not applied problem='lb.tls.key: " in stack.said())

            replace(made.key, renewed_key)
            await eventually(lambda: stack.said().count("certificate reloaded") == 2)
            assert presented(stack) != first
            await eventually(lambda: _is_well(stack))
            assert client.connected
            assert client.transport() == "websocket"

    asyncio.run(main())


def test_a_worker_that_dies_while_the_files_are_broken_comes_back_with_the_last_good_pair(tmp_path: Path) -> None:
    """The one that was taken last, by the supervisor too; it is told that this is not what the files hold."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with secured(tmp_path, made, nodes=1) as stack:
            first = presented(stack)
            made.issue()
            await eventually(lambda: "certificate kept for new workers" in stack.said())
            await eventually(lambda: "certificate reloaded" in stack.said())
            second = presented(stack)
            replace(made.key, b"broken")
            made.certificate.unlink()
            worker = (await stack.children())["worker-0"]["pid"]
            stack.kill(worker)
            await eventually(lambda: _serves_again(stack, worker))
            assert presented(stack) == second != first
            await _answers(stack, made)
            assert "certificate not reloaded: the one before stays" in stack.said()
            assert await eventually(lambda: _warned(stack, "lb.tls.certificate: "))
            assert _refused(made, True) in await _metrics(stack)
            children = psutil.Process(stack.process.pid).children(recursive=True)
            assert [child.pid for child in children if _holds_certificates(child.pid)] == []
            assert _holds_certificates(stack.process.pid)

            stack.process.send_signal(signal.SIGHUP)
            await eventually(lambda: "reload: not applied problem='lb.tls.certificate: " in stack.said())
            made.issue()
            await eventually(lambda: _is_well(stack))
            assert presented(stack) not in (first, second)
            assert _refused(made, False) in await _metrics(stack)

    asyncio.run(main())


def test_certificates_at_other_paths_are_kept_from_the_reload_on(tmp_path: Path) -> None:
    """Those of before are forgotten; a reload that fails changes nothing of it."""

    async def main() -> None:
        made, moved = Certificates(tmp_path), tmp_path / "moved"
        moved.mkdir()
        others = Certificates(moved)
        async with secured(tmp_path, made, nodes=1) as stack:
            stack.config["lb"]["tls"] |= others.section
            await _reloaded(stack, tmp_path, 1)
            await _answers(stack, others)
            others.key.unlink()
            made.key.unlink()
            worker = (await stack.children())["worker-0"]["pid"]
            stack.kill(worker)
            await eventually(lambda: _serves_again(stack, worker))
            await _answers(stack, others)

    asyncio.run(main())


def test_real_clients_get_the_certificate_of_the_name_that_they_ask_for(tmp_path: Path) -> None:
    """OpenSSL's, Node's WebSocket, Python's: each pair is renewed, refused and kept by itself."""
    openssl, node = need_openssl(), need_js_client()

    async def main() -> None:
        made = Certificates(tmp_path)
        shop, blog = made.beside("shop", "shop.example"), made.beside("blog", "*.blog.example", "shop.example")
        authority = tmp_path / "authority.pem"
        made.authority.cert_pem.write_to_path(str(authority))
        tls = made.section | {"more": [shop.section, blog.section]}
        async with running_stack(tmp_path, nodes=1, lb={"tls": tls}) as stack:
            listen = stack.config["lb"]["listen"]

            async def by_openssl(name: str) -> str:
                trust = ("-CAfile", str(authority), "-verify_return_error", "-verify_hostname", name)
                said = await _ran(openssl, "s_client", "-connect", listen, "-servername", name, *trust)
                assert "Verify return code: 0 (ok)" in said, said
                return said[said.index("-----BEGIN CERTIFICATE-----") : said.index("-----END CERTIFICATE-----")]

            async def by_node(name: str) -> dict[str, str]:
                url = f"wss://{listen}/socket.io/?EIO=4&transport=websocket"
                answer: dict[str, str] = json.loads(await _ran(node, str(JS / "wss.mjs"), url, name, str(authority)))
                return answer

            for name, owner in (("localhost", made), ("shop.example", shop), ("a.blog.example", blog)):
                assert await by_openssl(name) in owner.certificate.read_text()
                answer = await by_node(name)
                assert answer["names"].startswith(f"DNS:{owner.names[0]}")
                assert answer["first"].startswith('0{"sid":')
            assert await _warned(
                stack, "lb.tls.more.1: who asks for shop.example gets lb.tls.more.0, which comes first"
            )
            assert "error" in await by_node("nobody.example")
            await eventually(lambda: "no certificate has a name that clients ask for" in stack.said())
            assert "flotilla_tls_unknown_names_total 1.0" in await _metrics(stack)

            before = await by_openssl("shop.example")
            replace(shop.key, b"broken")
            blog.issue()
            await eventually(lambda: "certificate reloaded" in stack.said())
            assert await by_openssl("a.blog.example") in blog.certificate.read_text()
            assert await eventually(lambda: _warned(stack, "lb.tls.more.0.key: "))
            metrics = await _metrics(stack)
            assert [_refused(each, False) in metrics for each in (made, shop, blog)] == [True, False, True]
            assert _refused(shop, True) in metrics
            await eventually(lambda: "certificate kept for new workers" in stack.said())
            worker = (await stack.children())["worker-0"]["pid"]
            stack.kill(worker)
            await eventually(lambda: _serves_again(stack, worker))
            assert await by_openssl("shop.example") == before
            assert await by_openssl("a.blog.example") in blog.certificate.read_text()

            stack.config["lb"]["tls"] = made.section | {"more": [blog.section]}
            await _reloaded(stack, tmp_path, 1)
            assert await by_openssl("shop.example") in blog.certificate.read_text()

    asyncio.run(main())


async def _ran(*command: str) -> str:
    """Return what a command prints that is given nothing."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return printed.decode()


def test_sighup_takes_a_renewed_certificate_at_once_and_replaces_nobody(tmp_path: Path) -> None:
    """What certbot's deploy hook does; the configuration is unchanged."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with secured(tmp_path, made, nodes=1) as stack:
            children, first = await stack.children(), presented(stack)
            made.issue()
            stack.process.send_signal(signal.SIGHUP)
            await eventually(lambda: "certificate reloaded" in stack.said())
            assert presented(stack) != first
            assert await stack.children() == children

    asyncio.run(main())


def test_tls_is_switched_on_and_off_and_the_redirect_moves_with_a_reload(tmp_path: Path) -> None:
    """New workers speak it; a worker that dies is replaced by one that does."""

    async def main() -> None:
        made = Certificates(tmp_path)
        async with running_stack(tmp_path, nodes=1) as stack:
            for number, redirect in enumerate((free_port(), free_port(), None), start=1):
                tls = made.section | ({"redirect": f"127.0.0.1:{redirect}"} if redirect else {})
                stack.config["lb"]["tls"] = tls
                await _reloaded(stack, tmp_path, number)
                await _answers(stack, made)
                if redirect:
                    plain = f"http://127.0.0.1:{redirect}/"
                    async with aiohttp.ClientSession() as session, session.get(plain, allow_redirects=False) as answer:
                        assert answer.status == 308
            stack.kill((await stack.children())["worker-0"]["pid"])
            await _answers(stack, made)
            stack.config["lb"]["tls"] = {}
            await _reloaded(stack, tmp_path, 4)
            await _answers(stack, None)

    asyncio.run(main())


def test_the_chat_page_works_in_a_browser(tmp_path: Path) -> None:
    """By https and wss, and from http by the redirect."""
    need_page()

    async def main() -> None:
        made = Certificates(tmp_path)
        async with secured(tmp_path, made) as stack, async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=need_chromium(), args=FLAGS)
            try:
                context = await chromium.new_context(ignore_https_errors=True)
                page = await context.new_page()
                await page.goto(f"http://{stack.config['lb']['tls']['redirect']}/?name=Ann")
                assert page.url.startswith(stack.url)
                await expect(page.get_by_test_id("connection-state")).to_have_attribute("data-state", "connected")
                await page.get_by_test_id("message-input").fill("Ahoy over TLS")
                await page.get_by_test_id("send").click()
                entries = page.get_by_test_id("messages").locator('[data-kind="message"]')
                await expect(entries.filter(has_text="Ahoy over TLS")).to_have_count(1)
                await eventually(lambda: _has_tunnel(stack))
            finally:
                await chromium.close()

    asyncio.run(main())


async def _has_tunnel(stack: Stack) -> bool:
    return any(node["tunnels"] for node in await stack.nodes())


async def _serves_again(stack: Stack, before: int) -> bool:
    worker = (await stack.children())["worker-0"]
    return bool(worker["pid"] != before and worker["state"] == "ready")


def _holds_certificates(pid: int) -> bool:
    """Return whether the process has what the supervisor keeps."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return any("memfd:flotilla" in link for link in links)


def _refused(made: Certificates, is_refused: bool) -> str:
    return f'flotilla_certificate_refused{{certificate="{made.certificate}"}} {float(is_refused)}'


async def _warned(stack: Stack, part: str) -> bool:
    return any(part in warning for warning in (await stack.get("/healthz"))["warnings"])


async def _is_well(stack: Stack) -> bool:
    return not (await stack.get("/healthz"))["warnings"]


async def _metrics(stack: Stack) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.admin_url}/metrics") as answer:
        return await answer.text()


async def _reloaded(stack: Stack, directory: Path, times: int) -> None:
    (directory / "config.yaml").write_text(yaml.safe_dump(stack.config), encoding="utf-8")
    stack.process.send_signal(signal.SIGHUP)
    await eventually(lambda: stack.said().count("reload: done") == times, within_s=30, what="the reload is done")


async def _answers(stack: Stack, made: Certificates | None) -> None:
    """Wait until a client that trusts them is answered: after a reload the old workers may have taken a few more."""
    await eventually(lambda: _is_answered(stack, made))


async def _is_answered(stack: Stack, made: Certificates | None) -> bool:
    try:
        trust = made.trust() if made else True
        async with aiohttp.ClientSession() as session, session.get(stack.url, ssl=trust) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
