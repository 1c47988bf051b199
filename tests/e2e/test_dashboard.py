"""The dashboard of a real stack in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Route, async_playwright, expect

from tests.support.stack import Stack, running_stack
from tests.support.tools import need_chromium
from tests.support.valkey import Valkey

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
            undrain = page.get_by_role("button", name=f"Undrain {first}")
            await expect(undrain).to_be_focused()
            for other in others:
                await shows(page, other, "ready")
            assert (await stack.nodes())[0]["state"] == "draining"
            await page.keyboard.press("Enter")
            await shows(page, first, "ready")
            await expect(button).to_be_focused()

    asyncio.run(main())


def test_it_says_that_redis_is_away_though_every_node_serves(tmp_path: Path, valkey: Valkey) -> None:
    """Nobody is told that all is well while messages stay on their nodes."""

    async def main() -> None:
        async with (
            browser() as chromium,
            running_stack(tmp_path, nodes=1, redis=valkey.url) as stack,
            dashboard(stack, chromium) as page,
        ):
            await expect(page.get_by_test_id("status")).to_have_text("All is well", timeout=SOON_MS)
            valkey.kill()
            await expect(page.get_by_test_id("status")).to_have_text("Redis is away", timeout=SOON_MS)
            await expect(page.get_by_test_id("redis")).to_have_text("Away")
            valkey.start()
            await expect(page.get_by_test_id("status")).to_have_text("All is well", timeout=SOON_MS)

    asyncio.run(main())


def crowded(view: dict[str, Any]) -> dict[str, Any]:
    """Return an overview with thirty nodes, some of them unwell, with a long name or with much to say."""
    like = view["nodes"][0]
    nodes = [{**like, "name": f"n{3000 + number}", "port": 3000 + number} for number in range(30)]
    nodes[3] |= {"state": "down", "reason": "connection refused"}
    nodes[5] |= {"state": "ejected", "reason": "5 in a row failed there, for 40 s; the last: " + "out of words " * 20}
    nodes[7] |= {"name": "application." + "a-very-long-label." * 8 + "example.com:3000"}
    return {**view, "nodes": nodes}


@pytest.mark.parametrize("width", [1280, 390])
def test_thirty_nodes_are_shown_with_less_of_each(tmp_path: Path, width: int) -> None:
    """No long name or reason makes the page wider than the screen, or a card much taller than the others."""

    async def answer(route: Route) -> None:
        given = await route.fetch()
        await route.fulfill(response=given, body=json.dumps(crowded(await given.json())))

    async def main() -> None:
        async with (
            browser() as chromium,
            running_stack(tmp_path, nodes=1) as stack,
            dashboard(stack, chromium, width=width) as page,
        ):
            await page.route("**/api/overview", answer)
            await expect(page.get_by_test_id("node")).to_have_count(30, timeout=SOON_MS)
            await expect(page.get_by_test_id("nodes-ready")).to_have_text("28 of 30")
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            heights = [(await each.bounding_box() or {"height": 0.0})["height"] for each in await all_cards(page)]
            assert 0 < max(heights) < 2.5 * min(heights)
            assert sorted(heights)[15] < 160
            await page.unroute_all(behavior="ignoreErrors")

    asyncio.run(main())


async def all_cards(page: Page) -> list[Locator]:
    return await page.get_by_test_id("node").all()


def test_nothing_moves_when_the_first_answer_comes_and_while_it_is_watched(tmp_path: Path) -> None:
    """By the browser's own measure (Layout Instability API): what one is about to press stays where it is.

    A notice that comes and goes does not push it away either.
    """

    async def main() -> None:
        async with browser() as chromium, running_stack(tmp_path) as stack, clients(stack, 3):
            for width in (1280, 390):
                async with dashboard(stack, chromium, width=width, quietly=False) as page:
                    await expect(page.get_by_test_id("status")).to_have_text("All is well", timeout=SOON_MS)
                    await expect(page.get_by_test_id("messages")).not_to_have_text("0", timeout=SOON_MS)
                    await page.context.set_offline(True)
                    await expect(page.get_by_test_id("notice")).to_be_visible(timeout=SOON_MS)
                    await page.context.set_offline(False)
                    await expect(page.get_by_test_id("notice")).to_be_hidden(timeout=SOON_MS)
                    assert await page.evaluate(SHIFTED) == []

    asyncio.run(main())


SHIFTED = """new Promise((resolve) => new PerformanceObserver((list) => resolve(
    list.getEntries().filter((entry) => entry.value >= 0.01).map((entry) => ({
        value: entry.value,
        at: entry.startTime,
        moved: entry.sources.map(({ node, previousRect, currentRect }) => [
            node?.id || node?.className || node?.nodeName,
            [previousRect, currentRect].map(({ x, y, width, height }) => [x, y, width, height]),
        ]),
    }))
)).observe({ type: "layout-shift", buffered: true }) ?? setTimeout(() => resolve([]), 500))"""
"""What moved, when (in ms), from where to where."""


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
            await expect(page.get_by_test_id("status")).to_have_text("Connection lost", timeout=SOON_MS)
            await expect(page.get_by_test_id("notice")).to_contain_text("does not answer. What you see is from ")
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
