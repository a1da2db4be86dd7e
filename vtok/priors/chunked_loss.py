"""Cross-entropy of a large vocabulary without ever holding all logits: a chunk of tokens at a time.

The gradients of features and weights are made in the forward pass, chunk by chunk, so no logits are kept for the
backward one and none are computed twice. The idea is that of Liger Kernel (https://arxiv.org/abs/2410.10989); this is
plain torch, for any device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vtok.priors.attention import Linear

CHUNK = 1024
"""Tokens a chunk: 67 MB of float32 logits at 16,384 codes."""
IGNORED = -100
"""A target that counts for nothing."""
_ROOM = 2.0**-6
"""Of fp16's features when a chunk's weight gradient is summed: 1,024 equal targets stay far from 65,504, its largest
number, and a power of two rounds nothing."""


class PriorOutput(NamedTuple):
    """What training on a batch measures.

    Attributes:
        loss: cross-entropy, nats a code, with a graph.
        acc1: how often the code was the most likely one, percent.
        acc5: how often it was among the five most likely, percent.
    """

    loss: Float[Tensor, ""]
    acc1: Float[Tensor, ""]
    acc5: Float[Tensor, ""]


class Summed(NamedTuple):
    """Sums over all targets that count.

    Attributes:
        loss: cross-entropies, nats, with a graph.
        top1: targets that were the most likely.
        top5: targets among the five most likely.
        targets: how many there are.
    """

    loss: Float[Tensor, ""]
    top1: Float[Tensor, ""]
    top5: Float[Tensor, ""]
    targets: Float[Tensor, ""]

    def mean(self) -> PriorOutput:
        """The means."""
        count = self.targets.clamp_min(1)
        return PriorOutput(self.loss / count, 100 * self.top1 / count, 100 * self.top5 / count)


class Head(Linear):
    """The last layer: features to logits, or straight to the loss. No bias.

    Being one module's forward pass, the loss also works where weights are gathered around it (ZeRO-3).
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__(width, vocabulary, bias=False)

    def forward(  # type: ignore[override]
        self,
        features_bne: Float[Tensor, "b n e"],
        targets_bn: Int[Tensor, "b n"] | None = None,
        label_smoothing: float = 0.0,
        chunk: int = CHUNK,
    ) -> Tensor | Summed:
        """Logits (b, n, v); with targets, the sums of `summed_cross_entropy`."""
        if targets_bn is None:
            return F.linear(features_bne, self.weight)
        return summed_cross_entropy(
            features_bne.flatten(0, -2), self.weight, targets_bn.flatten(), label_smoothing, chunk
        )


def summed_cross_entropy(
    features_ne: Float[Tensor, "n e"],
    weight_ve: Float[Tensor, "v e"],
    targets_n: Int[Tensor, " n"],
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Summed:
    """Cross-entropy of softmax(features @ weight.T) in float32, summed, with hits.

    Args:
        features_ne: what the last layer gets.
        weight_ve: the last layer.
        targets_n: 0..v-1; `IGNORED` counts for nothing.
        label_smoothing: share of a target that is spread over all codes.
        chunk: tokens whose logits exist at a time.
    """
    if torch.is_autocast_enabled(features_ne.device.type):  # inside the function, autocast is off
        dtype = torch.get_autocast_dtype(features_ne.device.type)
        features_ne, weight_ve = features_ne.to(dtype), weight_ve.to(dtype)
    loss, top1, top5, count = _Chunked.apply(features_ne, weight_ve, targets_n, label_smoothing, chunk)
    return Summed(loss, top1, top5, count)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features_ne: Tensor, weight_ve: Tensor, targets_n: Tensor, smoothing: float, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wants_features, wants_weight = ctx.needs_input_grad[:2]
        grad_features = torch.empty_like(features_ne) if wants_features else None
        grad_weight = torch.zeros_like(weight_ve, dtype=torch.float32) if wants_weight else None
        sums = torch.zeros(4, device=features_ne.device)
        measured: Callable[..., Any] = _compiled() if features_ne.is_cuda else measure
        for start in range(0, len(features_ne), chunk):
            part = slice(start, start + chunk)
            features, targets = features_ne[part], targets_n[part]
            logits = F.linear(features, weight_ve)
            found, gradient = measured(logits, targets, smoothing, wants_features or wants_weight)
            sums += found
            if grad_features is not None:
                grad_features[part] = gradient @ weight_ve
            if grad_weight is not None and features.dtype == torch.float16:
                grad_weight.add_(gradient.t() @ (features * _ROOM), alpha=1 / _ROOM)
            elif grad_weight is not None:
                grad_weight += gradient.t() @ features
        ctx.grads, ctx.dtypes = (grad_features, grad_weight), (features_ne.dtype, weight_ve.dtype)
        loss, top1, top5, count = sums.unbind()
        ctx.mark_non_differentiable(top1, top5, count)
        return loss, top1, top5, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # `grad` divides by the number of targets: before that, sums do not fit into fp16.
        pairs = zip(ctx.grads, ctx.dtypes, strict=True)
        features, weight = (None if g is None else (g.float() * grad).to(dtype) for g, dtype in pairs)
        return features, weight, None, None, None


def measure(
    logits_nv: Float[Tensor, "n v"], targets_n: Int[Tensor, " n"], smoothing: float, with_gradient: bool
) -> tuple[Float[Tensor, " 4"], Float[Tensor, "n v"] | None]:
    """Loss, hits (first, first five) and targets that count, summed in float32; the gradient of the loss.

    Passes over the logits are what this costs on a GPU, so the target's place is counted rather than the best five
    found, and the softmax serves loss and gradient. Of equal logits the first comes first.

    Args:
        logits_nv: overwritten, if float32.
        with_gradient: else there is none.
    """
    dtype, logits_nv = logits_nv.dtype, logits_nv.float()
    columns = logits_nv.shape[1]
    counts_n = targets_n != IGNORED
    index_n1 = targets_n.clamp_min(0).unsqueeze(1)
    target_n1 = logits_nv.gather(1, index_n1)
    number_v = torch.arange(columns, device=logits_nv.device)
    ahead_nv = (logits_nv > target_n1) | ((logits_nv == target_n1) & (number_v < index_n1))
    place_n = ahead_nv.sum(1)
    expected_n = (1 - smoothing) * target_n1.squeeze(1)
    if smoothing:
        expected_n = expected_n + smoothing * logits_nv.mean(1)
    best_n1 = logits_nv.amax(1, keepdim=True)
    gradient_nv = logits_nv.sub_(best_n1).exp_()
    total_n1 = gradient_nv.sum(1, keepdim=True)
    loss_n = (best_n1 + total_n1.log()).squeeze(1) - expected_n
    sums = torch.stack(
        [
            torch.where(counts_n, loss_n, 0.0).sum(),
            (counts_n & (place_n == 0)).sum(),
            (counts_n & (place_n < 5)).sum(),
            counts_n.sum(),
        ]
    )
    if not with_gradient:
        return sums, None
    gradient_nv.div_(total_n1)
    if smoothing:
        gradient_nv.sub_(smoothing / columns)
    gradient_nv.scatter_add_(1, index_n1, torch.full_like(target_n1, smoothing - 1))
    return sums, gradient_nv.mul_(counts_n.unsqueeze(1)).to(dtype)


@functools.cache
def _compiled() -> Callable[..., Any]:
    """`measure` in a few kernels."""
    return torch.compile(measure)
