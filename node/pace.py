"""How background work shares the event loop with clients: who worked rests."""

from __future__ import annotations

import asyncio

SPACING_S = 0.02
MOST_SPACING_S = 1.0
REST = 4
"""A loop rests REST times as long as it worked, within these limits.  So changes that come together are dealt with
together, and a crowd that arrives cannot take more than a part of the node's time."""


async def rest_until(began: float, stirred: asyncio.Event, within_s: float) -> None:
    """Rest after work that began then, and go on when something has `stirred`, or when `within_s` have passed."""
    await rest(began)
    try:
        async with asyncio.timeout(within_s):
            await stirred.wait()
    except TimeoutError:
        return  # time to look all the same


async def rest(began: float, spacing_s: float = SPACING_S) -> None:
    """Rest after work that began at that time of the running loop's clock; at least `spacing_s`."""
    worked_s = asyncio.get_running_loop().time() - began
    await asyncio.sleep(min(MOST_SPACING_S, max(spacing_s, REST * worked_s)))
