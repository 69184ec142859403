"""Requests held against an OpenAPI 3.0 document; needs `jsonschema`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote


class Specification:
    """The requests that a document allows. Built once: 500 kB of schemas take a moment."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend

        self._document = _with_nulls(document)
        items = _fast_items(Draft202012Validator.VALIDATORS["items"])
        self._validator = extend(Draft202012Validator, {"items": items})  # type: ignore[no-untyped-call]  # by its stubs
        self._paths = {
            re.compile(re.sub(r"\\{[^}]+\\}", "([^/]+)", re.escape(path))): (path, operations)
            for path, operations in self._document["paths"].items()
        }

    def complaint(self, method: str, path: str, query: Mapping[str, str], body: Any) -> str | None:
        """What is wrong with a request, in one line; None where nothing is."""
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
        # Of two templates that fit (/collections/aliases, /collections/{name}) the one with fewer parameters is meant.
        fits = []
        for pattern, (template, operations) in self._paths.items():
            match = pattern.fullmatch(path)
            if match and method.lower() in operations:
                names = re.findall(r"{([^}]+)}", template)
                values = [unquote(value) for value in match.groups()]
                fits.append((len(names), operations[method.lower()], dict(zip(names, values, strict=True))))
        if not fits:
            return None, {}
        _, operation, arguments = min(fits, key=lambda fit: fit[0])
        return operation, arguments

    def _problem(self, schema: Mapping[str, Any], *candidates: Any) -> str | None:
        """None where one of the readings of a value fits; else what is wrong with the first."""
        from jsonschema.exceptions import best_match

        # The components travel along, because references are resolved from the root of the schema at hand.
        validator = self._validator({**schema, "components": self._document["components"]})
        if any(validator.is_valid(candidate) for candidate in candidates):
            return None
        error = best_match(validator.iter_errors(candidates[0]))
        return f"{error.json_path}: {error.message[:300]}"


def with_text_query(document: dict[str, Any]) -> dict[str, Any]:
    """Qdrant's document for 1.19 with the one query that 1.20 added and viewfinder makes: BM25 over a text index.

    After the models of qdrant-client 1.20, in which any other member is refused; `using` then names a payload field,
    which the document knows as a string already. A document that has the query itself stays as it is.
    """
    schemas = document["components"]["schemas"]
    if "TextQuery" not in schemas:
        text = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
        schemas["TextQuery"] = text | {"additionalProperties": False}
        schemas["Query"]["anyOf"].append({"$ref": "#/components/schemas/TextQuery"})
    return document


def _with_nulls(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` in the words of JSON Schema, which does not know it and would accept anything."""
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


def _fast_items(slowly: Any) -> Any:
    """Lists of plain numbers looked through at once: vectors, a hundred thousand numbers in a request."""

    def items(validator: Any, schema: Any, instance: Any, parent: Any) -> Iterator[Any]:
        numbers = isinstance(schema, dict) and schema.get("type") == "number" and set(schema) <= {"type", "format"}
        if numbers and isinstance(instance, list) and all(type(each) in (float, int) for each in instance):
            return
        yield from slowly(validator, schema, instance, parent)

    return items


def _typed(text: str, *, plain: bool = False) -> Any:
    """A query or path parameter as the boolean or number that it may stand for."""
    if plain:
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text
