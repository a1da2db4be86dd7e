"""What the exact arithmetic switches off on a GPU, and that it is given back. The switches exist on a CPU too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vtok.tokenizers.precision import full_precision

SWITCHES = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


def _switches() -> list[bool]:
    return [getattr(torch.backends.cuda.matmul, name) for name in SWITCHES]


@pytest.fixture
def as_before() -> Iterator[None]:
    before = _switches()
    yield
    for name, value in zip(SWITCHES, before, strict=True):
        setattr(torch.backends.cuda.matmul, name, value)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("allowed", [(True, True, True), (False, True, False), (False, False, True)])
def test_no_product_is_rounded_on_the_way(allowed: tuple[bool, ...]) -> None:
    for name, value in zip(SWITCHES, allowed, strict=True):
        setattr(torch.backends.cuda.matmul, name, value)
    with full_precision(torch.device("cuda")):
        assert _switches() == [False, False, False]
    assert _switches() == list(allowed)
    with pytest.raises(RuntimeError, match="away"), full_precision(torch.device("cuda")):
        raise RuntimeError("the card went away")
    assert _switches() == list(allowed), "after an error too"
    with full_precision(torch.device("cpu")):
        assert _switches() == list(allowed)
