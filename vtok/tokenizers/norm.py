"""Normalisation layers of the tokenizers: group norm, and batch norm with statistics over all ranks.

`SyncBatchNorm` (https://pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html) is what TATS
(https://arxiv.org/abs/2204.03638) trains with. torch's own refuses to train on a CPU; the classes here keep the buffers
of `BatchNorm2d` and `BatchNorm3d` (so original state dicts load), equal them on one process, and synchronise through
any backend.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from schemas.errors import VtokError
from vtok.tokenizers.collective import sum_over_ranks, world_size

GROUPS = 32
Norm = Literal["group", "batch", "local"]


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch normalisation with the mean and the variance of the batch on all ranks.

    Keeps only its input for the backward pass, as torch's kernels do. The gradients of weight and bias are those of the
    local batch: data parallelism averages them like any other gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        x32 = x.float()
        local = x32.sum(dims)
        total = sum_over_ranks(torch.cat([local, local.new_tensor([x.numel() / x.shape[1]])]))
        count = total[-1]
        mean = total[:-1] / count
        centred = x32 - mean.view(shape)
        var = sum_over_ranks(centred.square().sum(dims)) / count
        inv_std = (var + eps).rsqrt()
        out = centred * (inv_std * weight.float()).view(shape) + bias.float().view(shape)
        ctx.save_for_backward(x, weight, mean, inv_std, count)
        ctx.mark_non_differentiable(mean, var, count)
        return out.to(x.dtype), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inv_std, count = ctx.saved_tensors
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        grad = grad_out.float()
        x_hat = (x.float() - mean.view(shape)) * inv_std.view(shape)
        grad_bias = grad.sum(dims)
        grad_weight = (grad * x_hat).sum(dims)
        total = sum_over_ranks(torch.stack([grad_bias, grad_weight])) / count
        grad_x = grad - total[0].view(shape) - x_hat * total[1].view(shape)
        grad_x = grad_x * (inv_std * weight.float()).view(shape)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


class _SynchronisedStatistics(nn.modules.batchnorm._BatchNorm):
    """Mixed into torch's batch norms: in training mode, statistics cover the batches of all ranks."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, var, count = _GlobalBatchNorm.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = var * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
            self.num_batches_tracked.add_(1)
        return out


class SyncBatchNorm2d(_SynchronisedStatistics, nn.BatchNorm2d):
    """`BatchNorm2d` with statistics over all ranks; input and output `Float[Tensor, "b c h w"]`."""


class SyncBatchNorm3d(_SynchronisedStatistics, nn.BatchNorm3d):
    """`BatchNorm3d` with statistics over all ranks; input and output `Float[Tensor, "b c t h w"]`."""


def normalise(kind: Norm, channels: int) -> nn.Module:
    """The normalisation layer of a residual block.

    Args:
        kind: `group` is GroupNorm with 32 groups and eps 1e-6; `batch` is batch norm (eps 1e-5, momentum 0.1) with
            statistics over all ranks.
        channels: channels of its input.

    Raises:
        VtokError: `group`, and `channels` is not divisible by 32.
    """
    if kind == "batch":
        return SyncBatchNorm3d(channels)
    if kind == "local":
        return nn.BatchNorm3d(channels)
    if channels % GROUPS:
        raise VtokError(
            f"group norm has {GROUPS} groups: it cannot normalise {channels} channels",
            at="tokenizer.model.n_hiddens",
            hint="make n_hiddens a multiple of 16, or set norm: batch",
        )
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)
