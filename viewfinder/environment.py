"""The values of settings from flags, the environment, `.env` and a TOML file, before they are checked.

Values come from flags, then the environment, then `.env` in the working directory, then a TOML file (`--config` or
`VIEWFINDER_CONFIG`). No other module reads settings from the environment.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

PREFIX = "VIEWFINDER_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
DOTENV = ".env"

# Settings that have a variable of Ray's instead of a `VIEWFINDER_` one.
_RAY_VARIABLES = {"ray_address": "RAY_ADDRESS", "fast_proxy": "RAY_SERVE_ENABLE_HA_PROXY"}
_SECRETS = frozenset({"qdrant_api_key", "api_keys", "api_key", "cursor_keys"})


@dataclass(frozen=True)
class GivenValues:
    """Values by the field that they set, and the names that set no field, as `problems`.

    `places` are the beginnings of messages on values that no variable has set, such as the name of the file.
    """

    fields: Sequence[str]
    values: Mapping[str, object]
    places: Mapping[str, str]
    problems: Sequence[str]

    def describe(self, detail: Mapping[str, Any]) -> str:
        """A validation error as one line with the name of the variable, or of the file and its key."""
        name = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            return f"{name}: no such setting; {_nearest_setting(name, self.fields)}"
        message = str(detail["msg"]).removeprefix("Value error, ")
        value = repr(str(detail["input"]))
        given = "" if name in _SECRETS or value in message else f" (given: {value})"
        shown = f"{self.places[name]}{name}" if name in self.places else variable(name)
        return f"{shown}: {message[0].lower()}{message[1:]}{given}"


def read_environment(
    fields: Sequence[str],
    environment: Mapping[str, str] | None,
    config: str | Path | None,
    flags: Mapping[str, object],
) -> GivenValues:
    """Read the values of `fields`; see `Settings.load`."""
    problems: list[str] = []
    if environment is None:
        dotenv, found = _read_dotenv()
        problems += found
        problems += _unknown_variables(dotenv, fields, f"{DOTENV}: ") + _unknown_variables(os.environ, fields)
        environment = {**dotenv, **{name: value for name, value in os.environ.items() if value}}
    else:
        problems += _unknown_variables(environment, fields)
    of_file: dict[str, object] = {}
    path = config or environment.get(CONFIG_VARIABLE)
    if path:
        of_file, found = _read_toml(Path(path), "--config" if config else CONFIG_VARIABLE, fields)
        problems += found
    # An empty variable counts as unset.
    of_variables = {field: value for field in fields if (value := environment.get(variable(field)))}
    of_flags = {name: value for name, value in flags.items() if value is not None}
    places = dict.fromkeys(of_file.keys() - of_variables.keys(), f"{path}: ") | dict.fromkeys(of_flags, "")
    return GivenValues(fields, of_file | of_variables | of_flags, places, problems)


def variable(field: str) -> str:
    """The environment variable that sets a field."""
    return _RAY_VARIABLES.get(field, PREFIX + field.upper())


def _unknown_variables(environment: Iterable[str], fields: Sequence[str], place: str = "") -> list[str]:
    """One problem for each unknown `VIEWFINDER_` name, which would otherwise be ignored."""
    known = [CONFIG_VARIABLE, *(variable(field) for field in fields if field not in _RAY_VARIABLES)]
    return [
        f"{place}{name}: no such setting; {_nearest_setting(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known
    ]


def _read_dotenv() -> tuple[dict[str, str], list[str]]:
    """The variables of the file in the working directory, and its problems."""
    try:
        return {name: value for name, value in dotenv_values(DOTENV).items() if value is not None}, []
    except OSError as error:
        return {}, [f"{DOTENV}: cannot be read: {error.strerror}"]
    except UnicodeDecodeError as error:
        return {}, [f"{DOTENV}: is not UTF-8: {error}"]


def _read_toml(path: Path, named_by: str, fields: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of a TOML file by field, and its problems."""
    try:
        document = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except RuntimeError:
        return {}, [f"{named_by}: the home directory in {str(path)!r} does not exist on this machine"]
    except OSError as error:
        return {}, [f"{named_by}: {str(path)!r} cannot be read: {error.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [f"{named_by}: {str(path)!r} is not a TOML file: {error}"]
    problems = [
        f"{path}: {name}: no such setting; {_nearest_setting(name, fields)}" for name in document if name not in fields
    ]
    return {name: value for name, value in document.items() if name in fields}, problems


def _nearest_setting(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "docs/configuration.md lists all of them."
