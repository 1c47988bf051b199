"""The part of JSON Schema (2020-12) that our API's description uses, strictly: a word that it does not know fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


class Description:
    """An OpenAPI document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def at(self, reference: Schema) -> Schema:
        """Return what `reference` is, or points to."""
        found: Any = reference
        while "$ref" in found:
            path = found["$ref"].removeprefix("#/").split("/")
            found = self.document
            for key in path:
                found = found[key]
        return found  # type: ignore[no-any-return]

    def problems(self, schema: Schema, value: Any, where: str = "") -> Iterator[str]:
        """Yield what is wrong with `value`, each with its place."""
        schema = self.at(schema)
        if "oneOf" in schema:
            if sum(not list(self.problems(each, value)) for each in schema["oneOf"]) != 1:
                yield f"{where}: {value!r} is not one of {len(schema['oneOf'])} kinds"
            return
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if not any(_is(value, kind) for kind in kinds):
            yield f"{where}: {value!r} is no {' or '.join(kinds)}"
            return
        if value is not None:
            for word, rule in schema.items():
                yield from _RULES[word](self, schema, rule, value, where)

    def _fields(self, schema: Schema, rule: Mapping[str, Schema], value: dict[str, Any], where: str) -> Iterator[str]:
        for name in rule.keys() & value.keys():
            yield from self.problems(rule[name], value[name], f"{where}.{name}")

    def _others(self, schema: Schema, rule: bool | Schema, value: dict[str, Any], where: str) -> Iterator[str]:
        for name in value.keys() - schema.get("properties", {}).keys():
            if isinstance(rule, bool):
                yield f"{where}.{name} is not described"
            else:
                yield from self.problems(rule, value[name], f"{where}.{name}")

    def _missing(self, schema: Schema, rule: list[str], value: dict[str, Any], where: str) -> Iterator[str]:
        yield from (f"{where}.{name} is missing" for name in rule if name not in value)

    def _items(self, schema: Schema, rule: Schema, value: list[Any], where: str) -> Iterator[str]:
        for index, each in enumerate(value):
            yield from self.problems(rule, each, f"{where}[{index}]")

    def _among(self, schema: Schema, rule: list[Any], value: Any, where: str) -> Iterator[str]:
        if value not in rule:
            yield f"{where}: {value!r} is none of {rule}"

    def _least(self, schema: Schema, rule: float, value: float, where: str) -> Iterator[str]:
        if value < rule:
            yield f"{where}: {value!r} is less than {rule}"

    def _most(self, schema: Schema, rule: float, value: float, where: str) -> Iterator[str]:
        if value > rule:
            yield f"{where}: {value!r} is more than {rule}"

    def _nothing(self, *_: Any) -> Iterator[str]:
        yield from ()


_RULES: dict[str, Callable[..., Iterator[str]]] = {
    "type": Description._nothing,
    "description": Description._nothing,
    "properties": Description._fields,
    "additionalProperties": Description._others,
    "required": Description._missing,
    "items": Description._items,
    "enum": Description._among,
    "minimum": Description._least,
    "maximum": Description._most,
}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
