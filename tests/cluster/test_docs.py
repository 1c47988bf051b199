"""What the documentation draws is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.member import NEXT, Signal, State

ROOT = Path(__file__).parents[2]
PATH_DOC = (ROOT / "docs" / "path-of-a-connection.md").read_text(encoding="utf-8")


def test_the_table_of_states_is_the_one_in_the_code() -> None:
    """docs/path-of-a-connection.md shows `NEXT` in full."""
    lines = ["| | " + " | ".join(Signal) + " |", "|---|" + "---|" * len(Signal)]
    lines += [f"| **{state}** | " + " | ".join(NEXT[state, signal] for signal in Signal) + " |" for state in State]
    assert "\n".join(lines) in PATH_DOC


def test_every_file_that_the_path_names_exists() -> None:
    """A newcomer who opens them one after the other never finds one gone."""
    named = set(re.findall(r"`((?:lb|node|cluster)/[\w/]+\.py)`", PATH_DOC))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    """Relative links in README.md and docs/ point to files of the repository."""
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
