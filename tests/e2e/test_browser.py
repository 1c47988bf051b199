"""The chat page in a real browser."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.support.stack import running_stack
from tests.support.tools import need_chromium, need_page

OUTPUT = Path(__file__).parents[1] / "output"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    need_page()
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=need_chromium(), args=FLAGS)
        try:
            yield chromium
        finally:
            await chromium.close()


async def window(chromium: Browser, url: str, name: str) -> Page:
    """Open a window of its own cookies and sign in by hand, as a person would."""
    page = await (await chromium.new_context(viewport={"width": 1100, "height": 760})).new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    await page.goto(url)
    await page.get_by_test_id("name-input").fill(name)
    await page.get_by_test_id("join").click()
    await expect(page.get_by_test_id("connection-state")).to_have_attribute("data-state", "connected")
    return page


complaints: list[str] = []


async def say(page: Page, text: str) -> None:
    await page.get_by_test_id("message-input").fill(text)
    await page.get_by_test_id("send").click()


async def hears(page: Page, text: str, node: str) -> None:
    """The message is in the timeline once, and shows the node that it came from."""
    entry = page.get_by_test_id("messages").locator('[data-kind="message"]').filter(has_text=text)
    await expect(entry).to_have_count(1)
    await expect(entry).to_have_attribute("data-node", node)


async def serving_node(page: Page) -> str:
    node = page.get_by_test_id("serving-node")
    await expect(node).not_to_be_empty()
    return (await node.inner_text()).strip()


def test_two_windows_chat_across_two_nodes_and_one_survives_the_death_of_its_node(tmp_path: Path) -> None:
    """The window whose node is killed reconnects to another, says so, and goes on."""
    complaints.clear()

    async def main() -> None:
        # A node that is back within a second gets its window back; this one stays away.
        away = {"first_delay_s": 60, "most_delay_s": 60}
        async with browser() as chromium, running_stack(tmp_path, nodes=2, restart=away) as stack:
            ann = await window(chromium, stack.url, "Ann")
            bob = await window(chromium, stack.url, "Bob")
            ann_node, bob_node = await serving_node(ann), await serving_node(bob)
            assert ann_node != bob_node, "two windows, two nodes"

            await say(ann, "Ahoy from Ann")
            await hears(bob, "Ahoy from Ann", ann_node)
            await say(bob, "Ahoy from Bob")
            await hears(ann, "Ahoy from Bob", bob_node)
            await expect(ann.get_by_test_id("online-count")).to_contain_text("2")
            await expect(ann.get_by_test_id("user-list").locator("[data-username='Bob']")).to_have_count(1)

            [victim] = [node for node in await stack.nodes() if node["name"] == ann_node]
            stack.kill(victim["pid"])
            await expect(ann.get_by_test_id("serving-node")).to_have_text(bob_node, timeout=15_000)
            await expect(ann.get_by_test_id("connection-state")).to_have_attribute("data-state", "connected")
            await say(ann, "Still here")
            await hears(bob, "Still here", bob_node)
            await expect(ann.get_by_test_id("online-count")).to_contain_text("2", timeout=15_000)
            if os.environ.get("FLOTILLA_SCREENSHOTS"):
                OUTPUT.mkdir(exist_ok=True)
                await ann.screenshot(path=OUTPUT / "chat.png")
            assert complaints == []

    asyncio.run(main())


def test_the_page_works_with_cookies_blocked_and_over_long_polling_alone(tmp_path: Path) -> None:
    """No cookie and no WebSocket: the sid alone keeps every request of a window on its node."""
    complaints.clear()

    async def main() -> None:
        async with browser() as chromium, running_stack(tmp_path) as stack:
            context = await chromium.new_context(extra_http_headers={"Cookie": ""})
            page = await context.new_page()
            await context.route("**/*", lambda route: route.continue_())
            await page.goto(f"{stack.url}/?name=Cara&transport=polling")
            await expect(page.get_by_test_id("connection-state")).to_have_attribute("data-state", "connected")
            for i in range(3):
                await context.clear_cookies()
                await say(page, f"polling {i}")
                await hears(page, f"polling {i}", await serving_node(page))
            assert complaints == []

    asyncio.run(main())
