"""The output takes lines from everybody, and a reader that is slow or gone costs lines, never time."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from cluster.output import Output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _said(file: Path, form: Literal["text", "json"], *lines: tuple[str, str], colour: bool = False) -> list[str]:
    with file.open("wb") as stream, Output(stream.fileno(), form=form, colour=colour) as output:
        for process, _ in lines:
            output.expect(process)
        for process, text in lines:
            output.line(process, text)
    return file.read_text(encoding="utf-8").splitlines()


def test_text_lines_carry_the_name_in_one_column(file: Path) -> None:
    """So that one process can be followed by eye."""
    assert _said(file, "text", ("n3000", "up"), ("supervisor", "{}")) == ["n3000      | up", "supervisor | {}"]


def test_in_json_form_json_passes_and_text_is_wrapped(file: Path) -> None:
    """Every line is an object, with at least the process and the message."""
    own, foreign = _said(file, "json", ("n3000", '{"message":"up"}'), ("valkey", "oom {"))
    assert own == '{"message":"up"}'
    wrapped = json.loads(foreign)
    assert (wrapped["process"], wrapped["message"], wrapped["level"]) == ("valkey", "oom {", "info")
    assert abs(wrapped["at"] - time.time()) < 60


def test_names_are_coloured_each_in_its_own_way(file: Path) -> None:
    """Only where a terminal shows it; the text stays as it is."""
    first, second = _said(file, "text", ("a", "x"), ("b", "x"), colour=True)
    assert first.endswith("a |\x1b[0m x")
    assert first.partition("m")[0] != second.partition("m")[0]


def test_a_file_gets_no_colour(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output that is not a terminal."""
    with file.open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with Output.standard("text") as output:
            output.line("a", "x")
            output.plain("a picture")
    assert file.read_text(encoding="utf-8") == "a | x\na picture\n"


@pytest.mark.parametrize("stdout", [None, io.StringIO()])
def test_without_a_standard_output_nothing_fails(stdout: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with `>&-`, or embedded in something that has no descriptor."""
    monkeypatch.setattr(sys, "stdout", stdout)
    with Output.standard("text") as output:
        output.line("a", "x")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds one page."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def test_a_reader_that_does_not_read_costs_lines_not_time(pipe: tuple[int, int]) -> None:
    """What waits is bounded in bytes; the rest is counted, and the loss is said when somebody reads again."""
    reading, writing = pipe
    with Output(writing, most_waiting_bytes=1000) as output:
        for _ in range(1000):
            output.line("child", "x" * 100)
        # Nobody reads, and we are here.
        assert output.lost > 900
        data = b""
        while b"lines were lost" not in data:
            data += os.read(reading, 65536)
            output.line("child", "again")


def test_a_reader_that_is_gone_is_survived(pipe: tuple[int, int]) -> None:
    """Broken pipe: lines are counted as lost, and the thread that writes goes on."""
    reading, writing = pipe
    os.close(reading)
    with Output(writing) as output:
        output.line("child", "x")
        output.flush()
        assert output.lost == 1
        output.line("child", "y")
        output.flush()
        assert output.lost == 2


def test_a_full_disk_is_survived() -> None:
    """ENOSPC, as /dev/full gives it."""
    with open("/dev/full", "wb", buffering=0) as full, Output(full.fileno()) as output:
        output.line("child", "x")
        output.flush()
        assert output.lost == 1


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    """Programs that share our terminal do that; all lines arrive nevertheless."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    with Output(writing) as output:
        for _ in range(200):
            output.line("child", "x" * 100)
        data = b""
        while data.count(b"\n") < 200:
            data += os.read(reading, 65536)


def test_log_records_come_line_by_line(file: Path) -> None:
    """A traceback of several lines has the name before each."""
    with file.open("wb") as stream, Output(stream.fileno()) as output:
        lines = output.stream("supervisor")
        lines.write("first\n  second\n")
        lines.flush()
    assert file.read_text(encoding="utf-8") == "supervisor | first\nsupervisor |   second\n"
