"""Comparisons of large whole numbers mean the same to both ways in which Qdrant evaluates a range."""

import random
from operator import ge, gt, le, lt

import pytest
from qdrant_client import models

from viewfinder.store.whole_numbers import compared

OPERATORS = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
FIRST, LAST = -(2**63), 2**63 - 1


def matches(condition: models.Filter, number: int, *, rounds: bool) -> bool:
    def meets(each: models.FieldCondition) -> bool:
        if each.match is not None:
            return number in each.match.any
        value = float(number) if rounds else number
        bounds = [(OPERATORS[name], bound) for name, bound in each.range.model_dump(exclude_none=True).items()]
        return all(compare(value, bound) for compare, bound in bounds)

    return any(map(meets, condition.should))


@pytest.mark.parametrize("rounds", [False, True], ids=["index", "payload"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_comparison_is_exact_however_qdrant_evaluates_it(operator: str, rounds: bool) -> None:
    draw = random.Random(f"{operator} {rounds}")
    near = [sign * 2**power for power in (53, 54, 57, 60, 62, 63) for sign in (1, -1)]
    for _ in range(1000):
        bound: float = min(LAST, max(FIRST, draw.choice(near) + draw.randint(-1500, 1500)))
        bound = draw.choice([bound, float(bound)]) if abs(bound) < 2**62 else bound
        condition = compared("size", operator, bound)
        for distance in (0, 1, -1, draw.randint(-3000, 3000), draw.randint(FIRST, LAST)):
            number = min(LAST, max(FIRST, int(bound) + distance))
            met = matches(condition, number, rounds=rounds)
            assert met == OPERATORS[operator](number, bound), (number, bound)


def test_a_comparison_names_few_numbers() -> None:
    for bound in (2**63 - 1, 2**62 + 511, -(2**62) - 3, 2**53):
        for operator in OPERATORS:
            named = [each.match.any for each in compared("size", operator, bound).should if each.match is not None]
            assert sum(map(len, named)) <= 3 * 2**9
