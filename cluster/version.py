"""The version of what runs."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the version of the installed package, or `source` when it runs from a source tree."""
    try:
        return metadata.version("flotilla")
    except metadata.PackageNotFoundError:
        return "source"
