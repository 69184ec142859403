"""Values from clients in messages: bounded in depth and length."""

import reprlib


class _BoundedRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxstring, self.maxother = 2, 3, 4, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to format thousands of digits.
        return repr(x) if abs(x) < 10**30 else "a number of more than 30 digits"

    def repr_float(self, x: float, level: int) -> str:
        return repr(x)


def show(value: object) -> str:
    """Return a `repr` of at most 80 characters."""
    text = _BoundedRepr().repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
