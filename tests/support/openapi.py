"""The description of our API, and what differs from it in an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})


class Description:
    """An OpenAPI 3.1 document, whose schemas are JSON Schema 2020-12."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.paths: dict[str, dict[str, Any]] = document["paths"]

    def answers(self) -> Iterator[tuple[str, str, int]]:
        """Yield path, method and status of each answer that is described."""
        for path, item in self.paths.items():
            for method in item.keys() & METHODS:
                yield from ((path, method, int(status)) for status in item[method]["responses"])

    def wrong(self, path: str, method: str, status: int, body: Any, kind: str = "application/json") -> list[str]:
        """Return all in which an answer differs from its description."""
        where = f"{method} {path} {status}"
        response = self.paths[path][method]["responses"].get(str(status))
        if response is None:
            return [f"{where}: not described"]
        if "$ref" in response:
            response = self._at(response["$ref"])
        if kind not in response["content"]:
            return [f"{where}: {kind} is none of {sorted(response['content'])}"]
        # References are to places in the document.
        schema = {**response["content"][kind]["schema"], "components": self.document["components"]}
        errors = Draft202012Validator(schema).iter_errors(body)
        return [f"{where}{each.json_path.removeprefix('$')}: {each.message}" for each in errors]

    def _at(self, reference: str) -> Any:
        found: Any = self.document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
        return found
