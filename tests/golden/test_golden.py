"""Parity with the original implementations, case by case (see `cases.py`)."""

from __future__ import annotations

import pytest
import torch

from tests.golden.cases import Case, discover
from tests.golden.registry import check_of

CASES = discover()
CHECKED = [case for case in CASES if check_of(case) is not None]


def test_cases_are_found() -> None:
    assert CHECKED, "no golden case with a check was found"


@pytest.mark.parametrize("found", CHECKED, ids=lambda case: case.id)
def test_parity(found: Case) -> None:
    case = Case(found.path)
    check = check_of(case)
    assert check is not None
    check(case)
    forgotten = case.forgotten()
    assert not forgotten, f"{case.id}: outputs that no check looked at: {sorted(forgotten)}"


def test_a_wrong_value_is_noticed() -> None:
    """The comparison itself fails where it should: on a value, a shape, an infinity, and on a forgotten output."""
    case = Case(CASES[0].path)
    case.tensors = {"out/a": torch.tensor([1.0, -2.0, torch.inf]), "out/b": torch.tensor([1, 2])}
    assert case.forgotten() == {"a", "b"}
    case.expect("a", torch.tensor([1.0, -2.0 + 1e-6, torch.inf]), 1e-6)
    assert case.forgotten() == {"b"}
    for wrong in ([1.0, -2.1, torch.inf], [1.0, -2.0, 3.0], [1.0, -2.0], [1.0, -2.0, torch.nan]):
        with pytest.raises(AssertionError):
            case.expect("a", torch.tensor(wrong), 1e-6)
    with pytest.raises(AssertionError):
        case.expect("b", torch.tensor([1, 3]), 1.0)
