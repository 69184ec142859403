"""The file of API keys, in which a key may have a filter, and the indexes that it may see.

    {"keys": [{"name": "team a", "digest": "9f86...", "indexes": ["photos"], "filter": {"meta.team": {"eq": "a"}}}]}

`scope` is `read` by default, or `admin` or `metrics`; `name` is for readers of the file.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from viewfinder.json_objects import parse_unrepeated

_IndexName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    digest: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    scope: Literal["read", "admin", "metrics"] = "read"
    filter: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    indexes: Annotated[list[_IndexName], Field(min_length=1)] | None = None
    name: str = ""

    @model_validator(mode="after")
    def _check(self) -> "_Key":
        if self.scope == "metrics" and self.limits:
            raise ValueError("metrics are about all images: a key for metrics has no filter and no indexes")
        for name in ("filter", "indexes"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} is null: leave it out for a key that sees everything")
        return self

    @property
    def limits(self) -> dict[str, Any]:
        """The filter and the indexes that limit the key."""
        given = {"filter": self.filter, "indexes": self.indexes}
        return {name: value for name, value in given.items() if value is not None}


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: Annotated[list[_Key], Field(min_length=1)]


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of the file, each as `DIGEST:SCOPE` or `DIGEST:SCOPE:LIMITS` in JSON; none if `path` is None.

    Raises `ValueError` that names what is wrong by its place, not by its text: it may be a key.
    """
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8")
        keys = _KeysFile.model_validate(parse_unrepeated(text)).keys
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(problems)) from None
    except (ValueError, RecursionError) as error:
        place = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"is not a JSON file in UTF-8 without repeated names{place}") from None
    digests = [each.digest.lower() for each in keys]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            raise ValueError(f"keys.{number} repeats an earlier digest")
    limits = [f":{json.dumps(each.limits)}" if each.limits else "" for each in keys]
    return tuple(f"{digest}:{key.scope}{text}" for digest, key, text in zip(digests, keys, limits, strict=True))
