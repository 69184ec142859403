"""Comparisons of whole numbers with bounds of 2^53 or more, for which Qdrant has no exact range.

Bounds of ranges are float64. A field's index compares whole numbers with them exactly, but a point that is checked
without the index has its number rounded to float64 first. So a range ends here at a bound that both read alike, and the
numbers between it and the true bound, at most 1,537, are named one by one.
"""

import math

from qdrant_client import models

MAX_EXACT_FLOAT = 2**53
"""float64 holds the whole numbers up to this exactly."""
_FIRST, _LAST = -(2**63), 2**63 - 1


def compared(path: str, operator: str, bound: float) -> models.Filter:
    """Return the condition that a whole number is `gt`, `gte`, `lt` or `lte` a bound, which may be an int."""
    border = math.ceil(bound) if operator in ("lt", "gte") else math.floor(bound) + 1
    nearest = float(border)
    if operator in ("lt", "lte"):
        end = math.nextafter(nearest, -math.inf) if nearest > border else nearest
        # Numbers above the middle between two float64 are rounded up, to the end of the range.
        outside, named = models.Range(lt=end), range(_middle(end, -math.inf), border)
    else:
        end = math.nextafter(nearest, math.inf) if nearest < border else nearest
        outside, named = models.Range(gt=end), range(border, _middle(end, math.inf) + 1)
    numbers = [*range(max(named.start, _FIRST), min(named.stop, _LAST + 1))]
    either: list[models.Condition] = [models.FieldCondition(key=path, range=outside)]
    if numbers:
        either.append(models.FieldCondition(key=path, match=models.MatchAny(any=numbers)))
    return models.Filter(should=either)


def _middle(number: float, towards: float) -> int:
    """Return the whole number between a float64 and the next one."""
    return (int(number) + int(math.nextafter(number, towards))) // 2
