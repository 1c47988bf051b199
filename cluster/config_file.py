"""Read `config.yaml`: positions of keys for errors, `${VAR}` from the environment, duplicate keys refused.

Every mistake in a file is reported at once, each with file, line, key, what is wrong and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.config import Config
from cluster.errors import UsageError
from cluster.relations import relations

DEFAULT_NAME = "config.yaml"

KeyPath = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class ConfigError(UsageError):
    """The configuration cannot be used.  `problems` holds one line for each mistake, in the file's order."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Loaded:
    """A configuration and where it came from.  Paths and modules in it are relative to `base`."""

    config: Config
    base: Path
    file: Path | None


def load(file: Path | None, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read and check `file`; None means ./config.yaml if there is one, else the defaults.

    Raises ConfigError with every mistake.
    """
    if file is None:
        file = Path(DEFAULT_NAME)
        if not file.exists():
            return Loaded(Config(), Path.cwd(), None)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError([f"{file}: cannot be read: {reason}"]) from None
    return Loaded(parse(text, str(file), environ), file.resolve().parent, file.resolve())


def parse(text: str, name: str, environ: Mapping[str, str]) -> Config:
    """Return the configuration that the YAML `text` of the file `name` describes.  Raises ConfigError."""
    document = _Document(name, environ)
    values = document.read(text)
    try:
        config = Config.model_validate(values)
    except ValidationError as exc:
        for error in exc.errors():
            document.report(error["loc"], _sentence(error))
    else:
        for problem in relations(config):
            document.report(problem.path, problem.text)
    # One answer with everything, also when the text itself has faults: nobody likes to run a check ten times.
    if document.problems:
        raise ConfigError(document.in_order())
    return config


class _NoVariable(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"the environment has no {name}; allowed: set it, or write ${{{name}:-default}}")


@dataclass
class _Document:
    """One YAML document being read: its values, and the line of every key."""

    name: str
    environ: Mapping[str, str]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def read(self, text: str) -> Any:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            self._add(mark.line + 1 if mark else 1, "", f"not YAML: {exc.problem or exc.context}")
            return {}
        except yaml.YAMLError as exc:
            self._add(1, "", f"not YAML: {str(exc).splitlines()[0]}")
            return {}
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            self._add(1, "", "must be a mapping of keys to values; allowed keys: " + ", ".join(Config.model_fields))
            return {}
        return self._value(root, ())

    def report(self, path: KeyPath, text: str) -> None:
        """Note a mistake at the key `path`, or at the nearest key above it that the file has."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        self._add(self.lines.get(known, 1), ".".join(map(str, path)), text)

    def in_order(self) -> list[str]:
        return [text for _, text in sorted(self.problems, key=lambda problem: problem[0])]

    def _add(self, line: int, key: str, text: str) -> None:
        self.problems.append((line, f"{self.name}:{line}: {key + ': ' if key else ''}{text}"))

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(cast(yaml.ScalarNode, node), path)

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, str(key_node.value)
            here = (*path, key)
            if key in values:
                first = self.lines[here]
                self._add(line, ".".join(map(str, here)), f"stands here twice, first in line {first}; allowed: once")
                continue
            self.lines[here] = line
            value = self._value(value_node, here)
            if value is None:
                # `lb:` with every key commented out is the section's defaults; what is unreadable was reported.
                continue
            values[key] = value
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            text = _VARIABLE.sub(self._variable, node.value)
        except _NoVariable as exc:
            self.report(path, str(exc))
            return None
        loader = yaml.SafeLoader("")
        try:
            # What a variable brings is typed as if it stood in the file: ${PORT} may be a number.
            tag = node.tag if node.style else loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            return loader.construct_object(yaml.ScalarNode(tag, text))
        except (yaml.YAMLError, ValueError) as exc:
            self.report(path, f"{text!r} cannot be read: {getattr(exc, 'problem', None) or exc}")
            return None
        finally:
            loader.dispose()

    def _variable(self, match: re.Match[str]) -> str:
        value = self.environ.get(match["name"])
        # As in a shell, `:-` also stands in for a variable that is set but empty.
        if value:
            return value
        if match["default"] is not None:
            return match["default"]
        if value is None:
            raise _NoVariable(match["name"])
        return ""


def _sentence(error: ErrorDetails) -> str:
    """Say what pydantic found, in the words of the file: the value, what is wrong, what is allowed."""
    kind, given, facts = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"])
    if kind in ("value_error", "assertion_error"):
        return f"{_shown(given)} {facts['error']!s}"
    maker = _SENTENCES.get(kind)
    if maker is not None:
        return f"{_shown(given)} {maker(facts)}"
    return f"{_shown(given)}: {error['msg']}"


_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "enum": lambda facts: f"is not allowed; allowed: {_plain(facts['expected'])}",
    "literal_error": lambda facts: f"is not allowed; allowed: {_plain(facts['expected'])}",
    "int_type": lambda _: "is not a whole number; allowed: a whole number",
    "int_from_float": lambda _: "is not a whole number; allowed: a whole number",
    "float_type": lambda _: "is not a number; allowed: a number",
    "bool_type": lambda _: "is neither true nor false; allowed: true, false",
    "string_type": lambda _: "is not text; allowed: text (put it in quotes)",
    "tuple_type": lambda _: "is not a list; allowed: a list, for example []",
    "model_type": lambda _: "is not a section; allowed: a mapping of keys to values",
    "greater_than": lambda facts: f"is too small; allowed: more than {facts['gt']:g}",
    "greater_than_equal": lambda facts: f"is too small; allowed: {facts['ge']:g} or more",
    "less_than_equal": lambda facts: f"is too large; allowed: at most {facts['le']:g}",
    "string_too_short": lambda facts: f"is too short; allowed: {facts['min_length']} characters or more",
    "string_too_long": lambda facts: f"is too long; allowed: at most {facts['max_length']} characters",
    "string_pattern_mismatch": lambda facts: f"is not allowed; allowed: what matches {facts['pattern']}",
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
        annotation = section.model_fields[str(key)].annotation
        section = next(kind for kind in _types(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return section


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)
