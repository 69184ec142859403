"""Checks of JSON from clients, and their messages: which field, which value, what is valid."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from viewfinder.client.requests import is_blank
from viewfinder.store.shown import show

# The type of errors whose messages are ours.
OWN_MESSAGE = "refused"
# Problems that one message describes.
MAX_PROBLEMS = 10

# Descriptions of the form that a text must have, by its regular expression.
FORMS: dict[str, str] = {}

_TYPES = {
    "bool": "true or false",
    "dict": "a JSON object",
    "finite_number": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a JSON object",
    "string": "a text",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "is below the minimum of"),
    "less_than_equal": ("le", "is above the maximum of"),
    "greater_than": ("gt", "must be above"),
    "less_than": ("lt", "must be below"),
}


class JsonBody(BaseModel):
    """A JSON object whose unknown fields are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, document: Any) -> Any:
        for name in document if isinstance(document, Mapping) else ():
            if name not in cls.model_fields:
                refuse("{problem}", problem=unknown_name("field", name, cls.model_fields))
        return document


def unknown_name(what: str, name: object, known: Collection[str]) -> str:
    """Say that there is no field or parameter `name`, and which is the nearest."""
    close = difflib.get_close_matches(str(name)[:100], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none'}."
    return f"there is no {what} {show(name)}; {hint}"


def visible_text(text: str) -> str:
    """Refuse a text of nothing but spaces and invisible characters, which a model encodes as noise."""
    if text and is_blank(text):
        refuse("the text {text} has no visible character; describe the images to find.", text=show(text))
    return text


def describe_errors(errors: Sequence[ErrorDetails]) -> str:
    """The first problems that pydantic found, each after the path of its field."""
    problems = []
    for each in errors[:MAX_PROBLEMS]:
        path = ".".join(map(str, each["loc"]))
        problem = _describe_error(each)
        problems.append((f"{path}: " if path else "") + problem + ("" if problem.endswith((".", "?")) else "."))
    if len(errors) > MAX_PROBLEMS:
        problems.append(f"{len(errors) - MAX_PROBLEMS:,} more fields are invalid.")
    return " ".join(problems)


def refuse(message: str, **values: Any) -> NoReturn:
    """Fail the validation of a model with a message of ours."""
    raise PydanticCustomError(OWN_MESSAGE, message, values)


def _describe_error(error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "the field is missing."
    if kind in _BOUNDS:
        name, says = _BOUNDS[kind]
        bound = context[name]
        return f"{show(value)} {says} {int(bound) if bound == int(bound) else bound:,}."
    if kind in ("string_too_short", "too_short"):
        return "it is empty." if not value else f"{len(value)} are too few; the minimum is {context['min_length']}."
    if kind == "string_too_long":
        return f"{len(value):,} characters are too many; the maximum is {context['max_length']:,}."
    if kind == "too_long":
        return f"{len(value):,} are too many; the maximum is {context['max_length']:,}."
    if kind == "literal_error":
        return f"{show(value)} is not one of {context['expected']}."
    if kind == "string_pattern_mismatch":
        return f"{show(value)} is not {FORMS.get(context['pattern'], 'of the form ' + context['pattern'])}."
    if kind == "json_invalid":
        return f"it is not JSON ({context['error']})."
    for name, expected in _TYPES.items():
        if kind.startswith(name):
            return f"expected {expected}, not {show(value)}."
    message = error["msg"].removeprefix("Value error, ")
    return message if kind in (OWN_MESSAGE, "value_error") else f"{message} (given: {show(value)})"
