"""The result of a check."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The result of one check, with advice. The state `note` means that it works, with a remark."""

    name: str
    state: State
    found: str
    advice: str = ""
