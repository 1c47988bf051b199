"""Figures of both sides in a line: medians, the ratio within each round, and whether the budget is kept.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import table
from benchmarks.measure import Spread
from benchmarks.sio.peers import FLOTILLA, NODE_JS


@dataclass(frozen=True)
class Budget:
    """What the median of the ratios ours / theirs may be."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def allows(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True)
class Figure:
    """One thing that was measured on both sides, once in each round."""

    name: str
    ours: Sequence[float]
    theirs: Sequence[float]
    digits: int
    budget: Budget | None = None

    @property
    def is_kept(self) -> bool | None:
        """Whether the budget is kept; None without one."""
        if self.budget is None:
            return None
        ratios = [one / other for one, other in zip(self.ours, self.theirs, strict=True) if other > 0]
        return bool(ratios) and self.budget.allows(Spread.of(ratios).median)

    @property
    def line(self) -> str:
        cells = [table.shown(self.ours, self.digits), table.shown(self.theirs, self.digits)]
        cells.append(table.ratio(self.ours, self.theirs))
        if self.budget is not None:
            cells.append(f"{self.budget}  {'kept' if self.is_kept else 'MISSED'}")
        return table.line(self.name, *cells)


def lines(figures: Iterable[Figure]) -> Iterator[str]:
    """Yield the table, and how many budgets are kept."""
    found = list(figures)
    yield table.line("", FLOTILLA, NODE_JS, "ratio", "budget")
    yield from (figure.line for figure in found)
    kept = [figure.is_kept for figure in found if figure.is_kept is not None]
    if kept:
        yield ""
        yield f"{sum(kept)} of {len(kept)} budgets kept"
