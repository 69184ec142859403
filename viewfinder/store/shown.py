"""Values from clients in messages: bounded in depth and length."""

import reprlib


class _BoundedRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxstring, self.maxother = 2, 3, 4, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to format thousands of digits.
        return repr(x) if abs(x) < 10**30 else "a number of more than 30 digits"

    def repr_NoneType(self, x: None, level: int) -> str:  # noqa: N802 - reprlib finds it by the name of the type
        return "null"

    def repr_bool(self, x: bool, level: int) -> str:
        return "true" if x else "false"

    def repr_float(self, x: float, level: int) -> str:
        return repr(x)


def show(value: object) -> str:
    """Return a value in at most 80 characters, as Python writes it, but with JSON's null, true and false."""
    text = _BoundedRepr().repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
