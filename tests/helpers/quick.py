"""What of the tests runs in `make test`, where all of it would take long: `make test-all` runs the rest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import settings

PROFILES = {"quick": 25, "long": 200}
"""Examples that property tests try unless they say otherwise; ``conftest.py`` chooses the profile."""


def few(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Cases to parametrise a test with; those that are not named are long."""
    cases = list(cases)
    assert all(case in cases for case in quick), quick
    return [case if case in quick else pytest.param(*_values(case), marks=pytest.mark.long) for case in cases]


def each_once(*values: Iterable[Any]) -> list[Any]:
    """All combinations to parametrise a test with; those that are quick hold each value at least once."""
    lists = [list(one) for one in values]
    rounds = range(max(map(len, lists)))
    return few(product(*lists), *(tuple(one[number % len(one)] for one in lists) for number in rounds))


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def examples(count: int) -> int:
    """How many examples to try of something that takes longer than others, for which a count was chosen by hand."""
    return max(count * settings.default.max_examples // 100, 5)
