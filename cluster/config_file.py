"""Read `config.yaml`: positions of keys for errors, `${VAR}` from the environment, duplicate keys refused.

`$${` stands for a literal `${`.  Every mistake in a file is reported at once, each with file, line, key, what is wrong
and what is allowed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from yaml.reader import ReaderError

from cluster.config import Config
from cluster.config_words import sentence
from cluster.errors import UsageError
from cluster.relations import KeyPath, relations

DEFAULT_NAME = "config.yaml"

MOST_VALUES = 10_000
MOST_DEPTH = 8
"""A few lines of YAML with aliases can describe more than memory holds, or themselves; no configuration is that big."""

_NULL = "tag:yaml.org,2002:null"

_VARIABLE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


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
    config = _checked(document, document.read(text))
    # Relations of what could be read are checked as well: nobody likes to run a check ten times.
    for problem in relations(config, document.unread):
        document.report(problem.path, problem.text)
    if document.problems:
        raise ConfigError(document.in_order())
    return config


def written(config: Config) -> str:
    """Return `config` as text that `parse` reads again, in any environment.  JSON is YAML."""
    return json.dumps(config.dumped(), indent=1).replace("${", "$${")


def _checked(document: _Document, values: Any) -> Config:
    """Return the configuration that `values` describe, with the default in place of each mistake, which is reported."""
    while True:
        try:
            return Config.model_validate(values)
        except ValidationError as exc:
            for error in exc.errors():
                document.report(error["loc"], sentence(error), unread=True)
                _leave_out(values, error["loc"])


def _leave_out(values: Any, path: KeyPath) -> None:
    """Take the value at `path` out; for an item of a list, the whole list."""
    *above, key = path[: next((depth for depth, key in enumerate(path) if isinstance(key, int)), len(path))]
    for each in above:
        values = values.get(each, {})
    values.pop(key, None)


class _TooMuch(Exception):
    pass


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
    unread: set[KeyPath] = field(default_factory=set)
    """Keys that the file has, but whose value could not be used."""
    _values: int = 0

    def read(self, text: str) -> Any:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            problem = exc.problem or "what is this?"
            if problem.startswith("but ") and exc.context:
                problem = f"{exc.context}, {problem}"
            return self._not_yaml(mark.line + 1 if mark else 1, problem)
        except ReaderError as exc:
            line = text.count("\n", 0, exc.position) + 1
            return self._not_yaml(line, f"the character #x{ord(text[exc.position]):04x} is not allowed")
        except RecursionError:
            return self._not_yaml(1, "nested too deeply")
        if root is None or root.tag == _NULL:
            return {}
        if not isinstance(root, yaml.MappingNode):
            self._add(1, "", "must be a mapping of keys to values; allowed keys: " + ", ".join(Config.model_fields))
            return {}
        return self._value(root, ())

    def report(self, path: KeyPath, text: str, *, unread: bool = False) -> None:
        """Note a mistake at the key `path`, or at the nearest key above it that the file has."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        self._add(self.lines.get(known, 1), ".".join(map(str, path)), text)
        if unread:
            self.unread.add(path)

    def in_order(self) -> list[str]:
        return [text for _, text in sorted(self.problems, key=lambda problem: problem[0])]

    def _not_yaml(self, line: int, problem: str) -> dict[str, Any]:
        self._add(line, "", f"not YAML: {problem}")
        # Nothing of it was read: no relation between its keys can be judged.
        self.unread.add(())
        return {}

    def _add(self, line: int, key: str, text: str) -> None:
        self.problems.append((line, f"{self.name}:{line}: {key + ': ' if key else ''}{text}"))

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if len(path) > MOST_DEPTH or self._values > MOST_VALUES:
            raise _TooMuch
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
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(line, ".".join(map(str, path)), "a key is a list or a mapping; allowed: a word")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                first = self.lines[here]
                self._add(line, ".".join(map(str, here)), f"stands here twice, first in line {first}; allowed: once")
                continue
            self.lines[here] = line
            try:
                value = self._value(value_node, here)
            except _TooMuch:
                if path:
                    raise
                self.report(here, "nested too deeply, or too large", unread=True)
                continue
            if value is None:
                # `lb:` with every key commented out is the section's defaults; what is unreadable was reported.
                continue
            values[key] = value
        return values

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            text = _VARIABLE.sub(self._variable, node.value)
        except _NoVariable as exc:
            self.report(path, str(exc), unread=True)
            return None
        loader = yaml.SafeLoader("")
        try:
            tag = node.tag
            if text != node.value and not node.style and tag == _implicit_tag(loader, node.value):
                # What a variable brings is typed as if it stood in the file: ${PORT} may be a number.
                tag = _implicit_tag(loader, text)
            return loader.construct_object(yaml.ScalarNode(tag, text))
        except (LookupError, AttributeError):
            # PyYAML's way to say that the text is not of the type that the file gives it: `!!int`, `!!bool x`.
            self.report(path, f"{text!r} is no {tag.rpartition(':')[2]}", unread=True)
            return None
        except (yaml.YAMLError, ValueError) as exc:
            self.report(path, f"{text!r} cannot be read: {getattr(exc, 'problem', None) or exc}", unread=True)
            return None
        finally:
            loader.dispose()

    def _variable(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        value = self.environ.get(match["name"])
        # As in a shell, `:-` also stands in for a variable that is set but empty.
        if value:
            return value
        if match["default"] is not None:
            return match["default"]
        if value is None:
            raise _NoVariable(match["name"])
        return ""


def _implicit_tag(loader: yaml.SafeLoader, text: str) -> str:
    """Return the YAML type of a plain scalar."""
    return str(loader.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]
