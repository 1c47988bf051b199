"""What is wrong with a value of the configuration, in the words of the file: the value, the fault, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from datetime import date
from typing import Any, cast, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cluster.config import Config
from cluster.relations import KeyPath

MOST_SHOWN = 60


def sentence(error: ErrorDetails) -> str:
    """Say what pydantic found."""
    kind, path, facts = error["type"], error["loc"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path)
    given = _shown(error.get("input"), path)
    if kind == "value_error":
        return f"{given} {facts['error']!s}"
    maker = _SENTENCES.get(kind)
    if maker is not None:
        return f"{given} {maker(facts)}"
    return f"{given}: {error['msg']}"


_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "enum": lambda facts: f"is not allowed; allowed: {_plain(facts['expected'])}",
    "literal_error": lambda facts: f"is not allowed; allowed: {_plain(facts['expected'])}",
    "int_type": lambda _: "is not a whole number; allowed: a whole number, without quotes",
    "float_type": lambda _: "is not a number; allowed: a number, without quotes",
    "finite_number": lambda _: "is not a number; allowed: a number, without quotes",
    "bool_type": lambda _: "is neither true nor false; allowed: true, false",
    "string_type": lambda _: "is not text; allowed: text (put it in quotes)",
    "tuple_type": lambda _: "is not a list; allowed: a list, for example []",
    "mapping_type": lambda _: "is not a mapping; allowed: a mapping, for example {n3000: 2}",
    "dict_type": lambda _: "is not a mapping; allowed: a mapping, for example {n3000: 2}",
    "model_type": lambda _: "is not a section; allowed: a mapping of keys to values",
    "greater_than": lambda facts: f"is too small; allowed: more than {_amount(facts['gt'])}",
    "greater_than_equal": lambda facts: f"is too small; allowed: {_amount(facts['ge'])} or more",
    "less_than_equal": lambda facts: f"is too large; allowed: at most {_amount(facts['le'])}",
    "string_too_short": lambda facts: f"is too short; allowed: {facts['min_length']} characters or more",
    "string_too_long": lambda facts: f"is too long; allowed: at most {facts['max_length']} characters",
    "string_pattern_mismatch": lambda facts: f"is not allowed; allowed: what matches {facts['pattern']}",
}


def _shown(value: object, path: KeyPath) -> str:
    if path[-1] in ("secret", "admin_token"):
        return "this value"
    if isinstance(value, bool):
        return str(value).lower()
    text = value.isoformat() if isinstance(value, date) else repr(value)
    if path[0] == "redis":
        text = without_any_password(text)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def without_any_password(text: str) -> str:
    """Return what should be a URL, as a log may show it: also where a password holds what should have been escaped."""
    return re.sub(r":(?!//).*@", ":***@", text)


def _amount(limit: float) -> str:
    return f"{limit:.15g}"


def _plain(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")


def _unknown_key(path: KeyPath) -> str:
    known = list(_section_at(path[:-1]).model_fields)
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    hint = f", did you mean {close[0]}?" if close else ";"
    return f"unknown key{hint} allowed here: {', '.join(known)}"


def _section_at(path: KeyPath) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for key in path:
        if isinstance(key, str):  # a number is an item's place in the list that was named before
            annotation = section.model_fields[key].annotation
            item, *_ = get_args(annotation) or (annotation,)
            section = cast(type[BaseModel], item)
    return section
