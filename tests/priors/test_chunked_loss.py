"""The chunked loss is the naive one, and never holds all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vtok.priors.chunked_loss import IGNORED, Head, summed_cross_entropy


def _inputs(tokens: int = 50, width: int = 8, vocabulary: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(tokens, width, generator=draws, dtype=torch.float64).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=draws, dtype=torch.float64).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=draws)
    targets[3:7] = IGNORED
    return features, weight, targets


@pytest.mark.parametrize("chunk", [7, 50, 1024])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_the_naive_ones(chunk: int, smoothing: float) -> None:
    features, weight, targets = _inputs()
    summed = summed_cross_entropy(features, weight, targets, smoothing, chunk)
    (0.5 * summed.loss).backward()
    grads = features.grad, weight.grad
    logits = features.detach().requires_grad_() @ weight.detach().t()
    a, b = (tensor.detach().clone().requires_grad_() for tensor in (features, weight))
    logits = a @ b.t()
    naive = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    (0.5 * naive).backward()
    torch.testing.assert_close(summed.loss.double(), naive, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads, (a.grad, b.grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    hits = logits.topk(5).indices == targets.unsqueeze(1)
    assert [int(x) for x in summed[1:]] == [int(hits[:, 0].sum()), int(hits.sum()), 46]


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_is_as_large_as_all_logits() -> None:
    head = Head(16, 512)
    torch.nn.init.normal_(head.weight)
    features = torch.randn(2, 512, 16, requires_grad=True)
    targets = torch.zeros(2, 512, dtype=torch.long)
    with _Largest() as watch:
        head(features, targets, chunk=128).mean().loss.backward()
    assert watch.elements == 128 * 512, "a quarter of a quarter of the logits"
    assert head.weight.grad is not None and features.grad is not None


def test_nothing_is_kept_without_gradients() -> None:
    features, weight, targets = _inputs()
    with torch.no_grad():
        loss = summed_cross_entropy(features, weight, targets).loss
    assert not loss.requires_grad


def test_a_batch_without_targets_costs_nothing() -> None:
    features, weight, targets = _inputs()
    output = summed_cross_entropy(features, weight, torch.full_like(targets, IGNORED)).mean()
    output.loss.backward()
    assert output.loss.item() == 0
    assert not features.grad.any()  # type: ignore[union-attr]


def test_equal_logits_are_placed_in_order() -> None:
    features, weight = torch.zeros(9, 4), torch.zeros(9, 4)
    summed = summed_cross_entropy(features, weight, torch.arange(9))
    assert [float(summed.top1), float(summed.top5)] == [1, 5]
    assert float(summed.loss) == pytest.approx(9 * torch.tensor(9.0).log().item())


def test_many_equal_targets_do_not_overflow_in_fp16() -> None:
    """Their summed gradient is beyond fp16's numbers; the mean is not, and no loss scale could lower the sum."""
    tokens, feature = 24_000, 90.0
    features = torch.full((tokens, 1), feature, dtype=torch.float16)
    weight = torch.zeros(4, 1, dtype=torch.float16, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.long)
    for scale in (1.0, 64.0):
        (found,) = torch.autograd.grad(scale * summed_cross_entropy(features, weight, targets).mean().loss, weight)
        expected = scale * feature * torch.tensor([[-0.75], [0.25], [0.25], [0.25]])
        torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=0.0)
