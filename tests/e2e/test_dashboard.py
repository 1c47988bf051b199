"""The dashboard of a real stack in a real browser."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import socketio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect

from tests.support.stack import Stack, running_stack
from tests.support.tools import need_chromium

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SOON_MS = 15_000
TOKEN = "a-token-for-the-dashboard"


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    path = need_chromium()
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield chromium
        finally:
            await chromium.close()


@asynccontextmanager
async def dashboard(
    stack: Stack, chromium: Browser, *, scheme: str = "light", width: int = 1280, quietly: bool = True
) -> AsyncIterator[Page]:
    """Open the page; with `quietly`, nothing at all may be in its console at the end."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    context = await chromium.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 844},
        is_mobile=width < 600,
        reduced_motion="reduce",
    )
    page = await context.new_page()
    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.goto(stack.admin_url)
        yield page
    finally:
        await context.close()
    assert not quietly or complaints == []


@asynccontextmanager
async def clients(stack: Stack, count: int) -> AsyncIterator[None]:
    """Hold clients that talk."""
    talking: list[socketio.AsyncClient] = []

    async def talk(client: socketio.AsyncClient) -> None:
        while True:
            await client.emit("message", "hello")
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        try:
            for number in range(count):
                client = socketio.AsyncClient(reconnection=False)
                await client.connect(stack.url, transports=["websocket"])
                talking.append(client)
                await client.call("register", f"user {number}")
            told = [tasks.create_task(talk(client)) for client in talking]
            yield
            for task in told:
                task.cancel()
        finally:
            for client in talking:
                await client.disconnect()


def card(page: Page, node: str) -> Locator:
    return page.locator(f'[data-node="{node}"]')


async def shows(page: Page, node: str, state: str) -> None:
    await expect(card(page, node)).to_have_attribute("data-state", state, timeout=SOON_MS)


async def names(stack: Stack) -> Sequence[str]:
    return [node["name"] for node in await stack.nodes()]


def test_it_shows_three_nodes_and_its_numbers_move_when_clients_talk(tmp_path: Path) -> None:
    """Without a word in the console, on a desk by day and by night, and on a phone without sideways scrolling."""

    async def main() -> None:
        async with browser() as chromium, running_stack(tmp_path) as stack, clients(stack, 6):
            for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
                async with dashboard(stack, chromium, scheme=scheme, width=width) as page:
                    for node in await names(stack):
                        await shows(page, node, "ready")
                    await expect(page.get_by_test_id("node")).to_have_count(3)
                    await expect(page.get_by_test_id("nodes-ready")).to_have_text("3 of 3")
                    await expect(page.get_by_test_id("connections")).to_have_text("6", timeout=SOON_MS)
                    await expect(page.get_by_test_id("messages")).not_to_have_text("0", timeout=SOON_MS)
                    await expect(page.get_by_test_id("status")).to_have_text("All is well")
                    await expect(page.get_by_test_id("redis")).to_have_text("OK")
                    await expect(page.locator(".plot .curve")).to_have_count(4)
                    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
                    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
                    assert (background == "rgb(14, 20, 27)") is (scheme == "dark")

    asyncio.run(main())


def test_a_node_that_hangs_turns_red_and_one_that_was_killed_comes_back(tmp_path: Path) -> None:
    """With the reason beside it, and both among the events."""

    async def main() -> None:
        async with browser() as chromium, running_stack(tmp_path) as stack, dashboard(stack, chromium) as page:
            node = (await stack.nodes())[0]
            os.kill(node["pid"], signal.SIGSTOP)
            await shows(page, node["name"], "down")
            await expect(page.get_by_test_id("nodes-ready")).to_have_text("2 of 3")
            await expect(card(page, node["name"]).locator(".why")).to_contain_text("No answer", ignore_case=True)
            events = page.get_by_test_id("events").locator("li")
            await expect(events.filter(has_text=node["name"]).filter(has_text="down").first).to_be_visible()
            stack.kill(node["pid"])
            await shows(page, node["name"], "ready")
            await expect(card(page, node["name"])).not_to_contain_text(f"pid {node['pid']}")

    asyncio.run(main())


def test_a_node_is_drained_and_taken_back_with_the_buttons(tmp_path: Path) -> None:
    """After a question, which the keyboard answers too; saying no changes nothing."""

    async def main() -> None:
        async with browser() as chromium, running_stack(tmp_path) as stack, dashboard(stack, chromium) as page:
            first, *others = await names(stack)
            button = page.get_by_role("button", name=f"Drain {first}", exact=True)
            await button.click()
            await expect(page.get_by_role("dialog")).to_contain_text(f"Drain {first}?")
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_be_hidden()
            await shows(page, first, "ready")
            await button.focus()
            await page.keyboard.press("Enter")
            await page.get_by_test_id("confirm-drain").press("Enter")
            await shows(page, first, "draining")
            for other in others:
                await shows(page, other, "ready")
            assert (await stack.nodes())[0]["state"] == "draining"
            await page.get_by_role("button", name=f"Undrain {first}").click()
            await shows(page, first, "ready")
            await expect(button).to_be_visible()

    asyncio.run(main())


def test_it_says_that_the_balancer_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    """What was shown stays, and is marked as old."""

    async def main() -> None:
        async with (
            browser() as chromium,
            running_stack(tmp_path) as stack,
            dashboard(stack, chromium, quietly=False) as page,
        ):
            await expect(page.get_by_test_id("status")).to_have_text("All is well", timeout=SOON_MS)
            await page.context.set_offline(True)
            await expect(page.get_by_test_id("status")).to_have_text("Reconnecting…", timeout=SOON_MS)
            await expect(page.get_by_test_id("notice")).to_contain_text("does not answer")
            await expect(page.get_by_test_id("node")).to_have_count(3)
            await expect(page.locator("body")).to_have_attribute("data-link", "lost")
            await page.context.set_offline(False)
            await expect(page.get_by_test_id("status")).to_have_text("All is well", timeout=SOON_MS)
            await expect(page.get_by_test_id("notice")).to_be_hidden()

    asyncio.run(main())


def test_it_asks_for_the_token_until_it_gets_the_right_one(tmp_path: Path) -> None:
    """And keeps it for as long as the tab is open."""

    async def main() -> None:
        async with (
            browser() as chromium,
            running_stack(tmp_path, nodes=1, lb={"admin_token": TOKEN}) as stack,
            dashboard(stack, chromium, quietly=False) as page,
        ):
            dialog = page.get_by_role("dialog", name="Admin token")
            for given, then in (("wrong", "was not accepted"), (TOKEN, "")):
                await expect(dialog).to_be_visible(timeout=SOON_MS)
                await page.get_by_label("Token", exact=True).fill(given)
                await page.keyboard.press("Enter")
                if then:
                    await expect(dialog).to_contain_text(then, timeout=SOON_MS)
            await expect(page.get_by_test_id("node")).to_have_count(1, timeout=SOON_MS)
            await page.reload()
            await expect(page.get_by_test_id("node")).to_have_count(1, timeout=SOON_MS)
            await expect(dialog).to_be_hidden()

    asyncio.run(main())
