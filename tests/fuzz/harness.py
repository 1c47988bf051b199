"""What is fuzzed, and how: one harness for each parser of bytes that strangers send.

A harness is a promise about any bytes at all.  `test_harnesses.py` lets hypothesis look for a counterexample in every
run; `python -m tests.fuzz` lets atheris look, guided by coverage, for as long as one likes.  docs/fuzzing.md says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Harness:
    """`check` raises, whatever, for bytes that break the promise in its docstring."""

    name: str
    check: Callable[[bytes], None]
    modules: tuple[str, ...]
    """What coverage is measured of."""
    pieces: tuple[bytes, ...]
    """What such bytes are made of: chance alone would seldom get past the first branch."""
    seeds: tuple[bytes, ...] = ()
    """Where to begin; those that once broke the promise stay here for good."""

    def __str__(self) -> str:
        return self.name


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield `data` whole, in single bytes, and in two pieces in a few ways."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in {1, len(data) // 2, len(data) - 1}:
        yield [data[:at], data[at:]]
