"""A stream of bytes becomes lines of bounded length, however it is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.lines import CUT, LineSplitter


def _all(pieces: list[bytes], most_bytes: int = 1000) -> list[str]:
    splitter = LineSplitter(most_bytes)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.rest()


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=50)), st.data())
def test_lines_come_out_as_they_went_in(lines: list[str], data: st.DataObject) -> None:
    """Wherever the stream is cut, also within a character."""
    stream = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert _all(pieces) == lines


@given(st.lists(st.binary(max_size=200)))
def test_no_line_is_longer_than_allowed(pieces: list[bytes]) -> None:
    """Nor is what it remembers: a child that never ends its line costs no more."""
    # A byte that is not UTF-8 is shown as four characters.
    assert all(len(line) <= 4 * 20 + len(CUT) for line in _all(pieces, 20))


def test_a_line_that_is_too_long_is_cut_and_says_so() -> None:
    """The next one is whole again."""
    assert _all([b"0123", b"456789abc", b"def\nnext\n"], 8) == [f"01234567{CUT}", "next"]


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    """The limit is what fits."""
    assert _all([b"01234567\n"], 8) == ["01234567"]


def test_the_last_line_needs_no_end() -> None:
    """Whatever a dying process wrote is shown."""
    assert _all([b"one\ntwo"]) == ["one", "two"]
    assert _all([b"one\n"]) == ["one"]


def test_what_is_not_utf8_is_shown_escaped() -> None:
    """Better than nothing, and never an error."""
    assert _all([b"caf\xe9\n"]) == ["caf\\xe9"]


def test_a_carriage_return_before_the_end_is_dropped() -> None:
    """Some programs end their lines like that."""
    assert _all([b"dos\r\n"]) == ["dos"]
