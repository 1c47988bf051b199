"""A line of the log is one line, whatever is in it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from cluster import logs


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged through our text format, with the root logger as it was afterwards."""
    root = logging.getLogger()
    handlers, level, raising = [*root.handlers], root.level, logging.raiseExceptions
    stream = io.StringIO()
    logs.set_up("n3000", stream=stream)
    yield stream
    root.handlers[:], root.level, logging.raiseExceptions = handlers, level, raising


def test_what_a_peer_sent_cannot_forge_a_line(written: io.StringIO) -> None:
    """Neither in a field nor in the phrase, where libraries put it."""
    logging.getLogger("library").error("bad sid %s", "x\n09:00:00.000 info    all is well")
    logging.getLogger("ours").error("client dropped", extra={"reason": "y\r\n\x1b[31m"})
    assert len(written.getvalue().splitlines()) == 2
    assert "\x1b" not in written.getvalue()


def test_a_phrase_keeps_its_letters(written: io.StringIO) -> None:
    """Only what is not printable is escaped."""
    logging.getLogger("ours").info("größer → ok")
    assert "größer → ok" in written.getvalue()
