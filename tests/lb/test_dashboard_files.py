"""The dashboard's files: small, self-contained, readable for everybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.child import ChildState
from cluster.member import State
from lb import pages

DIRECTORY = Path(pages.__file__).parent / "dashboard"
HTML, CSS, SCRIPT = ((DIRECTORY / name).read_text() for name in ("index.html", "dashboard.css", "dashboard.js"))
LEGIBLE = 4.5
"""WCAG 2.2, 1.4.3, for text of any size."""

TONES = ("good", "calm", "warn", "bad")
PAIRS = [
    *((text, ground) for text in ("ink", "soft") for ground in ("page", "card")),
    ("soft", "track"),
    *((tone, f"{tone}-wash") for tone in TONES),
    *((tone, "card") for tone in TONES),
]


def colours(scheme: str) -> dict[str, str]:
    """Return the colours of a scheme; the dark one says what is other than in the light one."""
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#\w{6});", dark))


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_can_be_read(scheme: str, text: str, ground: str) -> None:
    """By day and by night, also by those who see less."""
    found = colours(scheme)
    lighter, darker = sorted((luminance(found[text]), luminance(found[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= LEGIBLE


def test_all_that_the_page_loads_is_ours_and_small() -> None:
    """It opens in a cellar without Internet, in an outage."""
    files = re.findall(r'(?:src|href)="([^"#]+)"', HTML)
    assert all(f"/{file}" in {*pages.PAGES, "/healthz", "/metrics"} or file.startswith("data:") for file in files)
    assert "@import" not in CSS
    assert "url(" not in CSS
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", SCRIPT)
    assert sum(len(text) for text in (HTML, CSS, SCRIPT)) < 48 * 1024


def test_nothing_in_it_needs_a_laxer_policy() -> None:
    """What nodes say of themselves is never read as markup."""
    assert not re.search(r'\sstyle="|\son\w+="|<script>', HTML)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", SCRIPT)


def test_every_element_that_the_script_looks_for_is_there() -> None:
    """A typing mistake would be an empty page."""
    named = set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT))
    assert named <= set(re.findall(r'id="([\w-]+)"', HTML))
    assert len(named) > 20


def test_every_state_has_a_colour() -> None:
    """A new one would look like nothing."""
    coloured = set(re.findall(r'\[data-state="(\w+)"\]', CSS))
    assert {*State, *ChildState} - {ChildState.STOPPED} <= coloured
