"""The hold that a rollback leaves: until it is lifted, no scheduled run undoes what a person has decided."""

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from viewfinder.store.control import Control

SUBJECT = "model"


@dataclass(frozen=True)
class Hold:
    """A rollback to `collection` from `instead_of`, and when (ISO 8601, UTC)."""

    collection: str
    instead_of: str
    at: str

    @classmethod
    def parse(cls, note: Any) -> "Hold":
        return cls(**{each.name: note[each.name] for each in fields(cls)})

    def __str__(self) -> str:
        return f"since {self.at}, when {self.instead_of!r} was rolled back to {self.collection!r}"


def standing(control: Control) -> Hold | None:
    """The hold on an index, if there is one."""
    note = control.read("hold", [SUBJECT]).get(SUBJECT)
    return Hold.parse(note) if note else None


def place(control: Control, collection: str, instead_of: str) -> Hold:
    """Hold an index at `collection`."""
    hold = Hold(collection, instead_of, datetime.now(UTC).isoformat(timespec="seconds"))
    control.write("hold", {SUBJECT: asdict(hold)})
    return hold


def lift(control: Control) -> None:
    """Let scheduled runs go on."""
    control.remove("hold", [SUBJECT])
