"""Figures as text: medians with their extremes, ratios within a round, columns.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure import Spread

NAME_WIDTH, WIDTH = 28, 24


def line(name: str, *cells: str) -> str:
    """Return a line of the table."""
    return (f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)).rstrip()


def heading(facts: dict[str, str]) -> Iterable[str]:
    """Yield a line for each fact that the figures belong to."""
    return (f"  {name:<12}{text}" for name, text in facts.items())


def shown(values: Sequence[float], digits: int) -> str:
    """Return median (lowest–highest), or the only value."""
    spread = Spread.of(values)
    if len(values) == 1:
        return f"{spread.median:.{digits}f}"
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f"{spread.median:.{digits}f} ({low}–{high})"


def ratio(ours: Sequence[float], theirs: Sequence[float], digits: int = 2) -> str:
    """Return the ratio within each round, then median (lowest–highest): what slows both in a round does not count."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True) if other > 0]
    return shown(ratios, digits) if ratios else "-"  # too little to be measured, or nothing at all
