"""Log lines: a fixed phrase plus fields, as text or as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from cluster import logs

log = logging.getLogger("ours")


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = [*root.handlers], root.level, logging.raiseExceptions
    yield
    root.handlers[:], root.level, logging.raiseExceptions = handlers, level, raising


def _writing(form: Literal["text", "json"], level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.set_up("n3000", level, form, stream)
    return stream


def test_text_is_time_level_phrase_and_fields() -> None:
    """Numbers are short, and what has blanks is quoted."""
    stream = _writing("text")
    log.info("node ready", extra={"node": "n3000", "lag_ms": 1.25, "reason": "all well", "empty": ""})
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == len("09:00:00.000")
    assert rest == "info    node ready node=n3000 lag_ms=1.25 reason='all well' empty=''\n"


def test_json_has_the_fields_as_they_are() -> None:
    """One object a line; what JSON cannot hold is text."""
    stream = _writing("json")
    log.warning("node lost", extra={"node": "n3000", "count": 3, "path": Path("x")})
    line = json.loads(stream.getvalue())
    assert isinstance(line.pop("at"), float)
    assert line == {
        "level": "warning",
        "process": "n3000",
        "logger": "ours",
        "message": "node lost",
        "node": "n3000",
        "count": 3,
        "path": "x",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_made_at_once_is_as_one_of_a_logger(form: Literal["text", "json"]) -> None:
    """Whatever its fields are called: also as attributes of a record are."""
    stream = _writing(form)
    fields = {"node": "n3000", "seconds": 1.5, "reason": "a b", "msg": "x", "process": "y"}
    log.handle(logs.Line("ours", "node ready", fields))
    said = stream.getvalue()
    if form == "text":
        assert said.partition(" ")[2] == "info    node ready node=n3000 seconds=1.5 reason='a b' msg=x process=y\n"
    else:
        line = json.loads(said)
        assert isinstance(line.pop("at"), float)
        assert line == {"level": "info", "logger": "ours", "message": "node ready", **fields}


def test_each_second_is_written_as_it_is() -> None:
    """Although it is put into words only once: there, on, and back, as clocks are set."""
    stream = _writing("text")
    for created in (1000.25, 1000.75, 1001.0, 999.999, 1000.5):
        record = logs.Line("ours", "x", {})
        record.created, record.msecs = created, created % 1 * 1000
        log.handle(record)
    ends = [line.partition(" ")[0][-6:] for line in stream.getvalue().splitlines()]
    assert ends == ["40.250", "40.750", "41.000", "39.999", "40.500"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_brings_its_traceback(form: Literal["text", "json"]) -> None:
    """In JSON within the same line."""
    stream = _writing(form)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("crashed")
    assert "ZeroDivisionError" in stream.getvalue()
    if form == "json":
        assert "Traceback" in json.loads(stream.getvalue())["exception"]


def test_what_is_below_the_level_is_not_written() -> None:
    """The level is the configuration's."""
    stream = _writing("text", "warning")
    log.info("unimportant")
    assert stream.getvalue() == ""


def test_shared_settings_are_followed(tmp_path: Path) -> None:
    """Level and form change, the name of the process and the stream stay."""
    stream = _writing("text")
    file = tmp_path / "log.json"
    file.write_text(logs.share("debug", "json"), encoding="ascii")
    logs.follow(file)
    log.debug("details")
    line = json.loads(stream.getvalue())
    assert (line["process"], line["message"]) == ("n3000", "details")


def test_access_lines_have_a_switch_of_their_own(tmp_path: Path) -> None:
    """On with a level that hides all else, off with one that hides nothing; a reload turns it."""
    stream, access, file = _writing("text", "error"), logging.getLogger(logs.ACCESS), tmp_path / "log.json"
    access.info("not wanted")
    for on, level in ((True, "error"), (False, "debug")):
        file.write_text(logs.share(level, "text", access=on), encoding="ascii")
        logs.follow(file)
        access.info("wanted" if on else "not wanted")
    assert stream.getvalue().count("wanted") == 1
    assert "not wanted" not in stream.getvalue()


def test_a_stream_that_fails_does_not_fail_the_program() -> None:
    """The supervisor died and took our standard error along."""
    stream = _writing("text")
    stream.close()
    log.info("nobody hears this")
