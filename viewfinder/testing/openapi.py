"""Validation of requests against an OpenAPI 3.0 document; needs `jsonschema-rs`, and `jsonschema` for its messages."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


class Specification:
    """Validates requests against a document. Create it once: each schema is compiled at its first use."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = _with_nulls(document)
        self._validators: dict[int, Any] = {}  # by the id of a schema in the document
        self._paths = {
            re.compile(re.sub(r"\\{[^}]+\\}", "([^/]+)", re.escape(path))): (path, operations)
            for path, operations in self._document["paths"].items()
        }

    def violation(self, method: str, path: str, query: Mapping[str, str], body: Any) -> str | None:
        """Return in one line why a request is invalid; None if it is valid."""
        operation, arguments = self._operation(method, path)
        if operation is None:
            return f"{method} {path}: no such operation"
        parameters = operation.get("parameters", [])
        for where, given in (("path", arguments), ("query", query)):
            known = {each["name"]: each for each in parameters if each["in"] == where}
            for name in given.keys() - known.keys():
                return f"{method} {path}: no {where} parameter {name!r}"
            for name, parameter in known.items():
                if name not in given:
                    if parameter.get("required"):
                        return f"{method} {path}: {where} parameter {name!r} is missing"
                    continue
                problem = self._problem(parameter["schema"], _typed(given[name]), _typed(given[name], plain=True))
                if problem:
                    return f"{method} {path}: {where} parameter {name!r}: {problem}"
        wanted = operation.get("requestBody")
        if wanted is None:
            return f"{method} {path}: takes no body" if body is not None else None
        if body is None:
            return f"{method} {path}: the body is missing" if wanted.get("required", True) else None
        problem = self._problem(wanted["content"]["application/json"]["schema"], body)
        return f"{method} {path}: {problem}" if problem else None

    def _operation(self, method: str, path: str) -> tuple[Mapping[str, Any] | None, dict[str, str]]:
        # If two templates match (/collections/aliases, /collections/{name}), the one with fewer parameters is used.
        matching = []
        for pattern, (template, operations) in self._paths.items():
            match = pattern.fullmatch(path)
            if match and method.lower() in operations:
                names = re.findall(r"{([^}]+)}", template)
                values = [unquote(value) for value in match.groups()]
                matching.append((len(names), operations[method.lower()], dict(zip(names, values, strict=True))))
        if not matching:
            return None, {}
        _, operation, arguments = min(matching, key=lambda each: each[0])
        return operation, arguments

    def _problem(self, schema: Mapping[str, Any], *candidates: Any) -> str | None:
        """Return None if one of the candidates is valid, else why the first is invalid."""
        import jsonschema_rs

        # With the components, because references are resolved from the root of this schema.
        whole = {**schema, "components": self._document["components"]}
        if (validator := self._validators.get(id(schema))) is None:
            validator = self._validators[id(schema)] = jsonschema_rs.Draft202012Validator(whole)
        if any(validator.is_valid(candidate) for candidate in candidates):
            return None
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match

        error = best_match(Draft202012Validator(whole).iter_errors(candidates[0]))
        if error is None:  # such as NaN, which is no JSON
            return "$: not valid"
        return f"{error.json_path}: {error.message[:300]}"


def with_text_query(document: dict[str, Any]) -> dict[str, Any]:
    """Add the text query of Qdrant 1.20 (BM25 over a text index) to the document of 1.19.

    Modelled on qdrant-client 1.20, which refuses any other member; `using` then names a payload field, already a string
    in the document. A document that has the query is returned unchanged.
    """
    schemas = document["components"]["schemas"]
    if "TextQuery" not in schemas:
        text = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
        schemas["TextQuery"] = text | {"additionalProperties": False}
        schemas["Query"]["anyOf"].append({"$ref": "#/components/schemas/TextQuery"})
    return document


def _with_nulls(node: Any) -> Any:
    """Translate OpenAPI 3.0's `nullable` to JSON Schema, which ignores it."""
    if isinstance(node, list):
        return [_with_nulls(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {name: _with_nulls(each) for name, each in node.items() if name not in ("nullable", "example", "examples")}
    if node.get("nullable") is True:
        if set(made) - {"description", "default"} == set():
            return {"type": "null"}
        return {"anyOf": [made, {"type": "null"}]}
    return made


def _typed(text: str, *, plain: bool = False) -> Any:
    """Parse a query or path parameter as a boolean or number if possible."""
    if plain:
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text
