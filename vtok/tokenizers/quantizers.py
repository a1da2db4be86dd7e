"""Quantisers without a codebook, behind the same protocol: a code is computed from the vector, digit by digit.

- `FSQ`, finite scalar quantisation (https://arxiv.org/abs/2309.15505): every channel is squashed and rounded to one of
  a few levels. The asymmetric channels (even numbers of levels) are shifted by artanh, so that 0 stays 0; the paper's
  listing has tan, which only comes close.
- `LFQ`, lookup-free quantisation of MAGVIT-v2 (https://arxiv.org/abs/2310.05737): the signs of the channels. An entropy
  loss makes every vector sure of its code and all vectors together use all codes. The softmax over 2^bits codes falls
  apart into one sigmoid a bit; the entropy of the mean over vectors is exact all the same, by one product of the
  probabilities of half of the bits with those of the other half.
- `BSQ`, binary spherical quantisation (https://arxiv.org/abs/2406.07548): LFQ on the unit sphere; the entropy of the
  mean is that of independent bits, an upper bound.

Nothing of them is learnt: the convolutions before and after (`pre_vq_conv`, `post_vq_conv`) are the projections.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vtok.tokenizers.codebook import CodebookOutput, Draws
from vtok.tokenizers.collective import sum_over_ranks, world_size

_EPS = 1e-3
_TINY = 1e-12


@runtime_checkable
class Quantizer(Protocol):
    """Vectors to codes and back; `Codebook` is one too."""

    @property
    def n_codes(self) -> int:
        """Codes are 0..n_codes-1."""
        ...

    def __call__(self, z_bcthw: Tensor, draws: Draws | None = None) -> CodebookOutput:
        """Quantise, with gradients straight through; in training mode it may learn."""
        ...

    def nearest(self, z_bnc: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """The code of every vector; a clip's codes do not depend on its neighbours."""
        ...

    def lookup(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t h w"]:
        """The vectors of codes."""
        ...


class _DigitQuantizer(nn.Module):
    """A code is a number whose digits, lowest first, are the levels of the channels."""

    _levels: tuple[int, ...]

    @property
    def n_codes(self) -> int:
        return math.prod(self._levels)

    @property
    def embeddings(self) -> Float[Tensor, "k c"]:
        """The vectors of all codes, made on demand."""
        return self._values(self._digits(torch.arange(self.n_codes)))

    def forward(self, z_bcthw: Float[Tensor, "b c t h w"], draws: Draws | None = None) -> CodebookOutput:
        """Quantise; `draws` is not needed. Losses are in float32, whatever the latents are.

        The `commitment_loss` of the result is the sum of all losses of the quantiser.
        """
        with torch.autocast(z_bcthw.device.type, enabled=False):
            z_bcthw = z_bcthw.float()
            smooth_bnc = self._smooth(z_bcthw.flatten(2).transpose(1, 2))
            digits_bnc = self._round(smooth_bnc.detach())
            codes_bn = self._number(digits_bnc)
            chosen_bnc = self._values(digits_bnc)
            loss = self._loss(smooth_bnc, chosen_bnc)
            counts_k = torch.bincount(codes_bn.flatten(), minlength=self.n_codes).float()
            if self.training:
                counts_k = sum_over_ranks(counts_k)
            probabilities = counts_k / counts_k.sum()
            perplexity = torch.exp(-(probabilities * (probabilities + 1e-10).log()).sum())
            straight_bnc = (chosen_bnc - smooth_bnc).detach() + smooth_bnc
            grid = z_bcthw.shape[2:]
            embeddings_bcthw = straight_bnc.transpose(1, 2).unflatten(2, grid)
        return CodebookOutput(embeddings_bcthw, codes_bn.unflatten(1, grid), loss, perplexity)

    @torch.no_grad()
    def nearest(self, z_bnc: Float[Tensor, "b n c"]) -> Int[Tensor, "b n"]:
        """The code of every vector."""
        return self._number(self._round(self._smooth(z_bnc)))

    def lookup(self, codes_bthw: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t h w"]:
        """The vectors of codes."""
        return self._values(self._digits(codes_bthw)).movedim(-1, 1)

    def _number(self, digits: Int[Tensor, "*n c"]) -> Int[Tensor, "*n"]:
        code, weight = torch.zeros_like(digits[..., 0]), 1
        for channel, levels in enumerate(self._levels):
            code, weight = code + digits[..., channel] * weight, weight * levels
        return code

    def _digits(self, codes: Int[Tensor, "*n"]) -> Int[Tensor, "*n c"]:
        digits = []
        for levels in self._levels:
            digits.append(codes % levels)
            codes = codes.div(levels, rounding_mode="floor")
        return torch.stack(digits, -1)

    def _smooth(self, z_bnc: Tensor) -> Tensor:
        """What is rounded, in the range of the values."""
        raise NotImplementedError

    def _round(self, smooth_bnc: Tensor) -> Tensor:
        """The digits, int64."""
        raise NotImplementedError

    def _values(self, digits: Tensor) -> Tensor:
        """The channels' values of digits."""
        raise NotImplementedError

    def _loss(self, smooth_bnc: Tensor, chosen_bnc: Tensor) -> Tensor:
        """The sum of the losses, a scalar."""
        raise NotImplementedError


class FSQ(_DigitQuantizer):
    """Rounds channel i to `levels[i]` values in [-1, 1]; no loss.

    Args:
        levels: of every channel, each at least 3 (two would split far from 0). The paper's (8, 8, 8, 6, 5) make
            15,360 codes.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self._levels = levels

    def _sizes(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the range of the squashed channels, the offset of those with even levels, levels // 2."""
        levels = torch.tensor(self._levels, device=like.device)
        return (levels - 1) * (1 - _EPS) / 2, (1 - levels % 2) * 0.5, levels // 2

    def _smooth(self, z_bnc: Tensor) -> Tensor:
        half, offset, width = self._sizes(z_bnc)
        return (torch.tanh(z_bnc + torch.atanh(offset / half)) * half - offset) / width

    def _round(self, smooth_bnc: Tensor) -> Tensor:
        width = self._sizes(smooth_bnc)[2]
        return (smooth_bnc * width).round().long() + width

    def _values(self, digits: Tensor) -> Tensor:
        width = self._sizes(digits)[2]
        return (digits - width).float() / width

    def _loss(self, smooth_bnc: Tensor, chosen_bnc: Tensor) -> Tensor:
        return smooth_bnc.new_zeros(())


class BinaryQuantizer(_DigitQuantizer):
    """One bit a channel, its sign: LFQ, or BSQ on the unit sphere.

    The loss is `commitment_weight` * mean((z - q)^2) + `entropy_weight` * (mean over vectors of the entropy of their
    codes - `diversity_weight` * entropy of the mean), in nats, with the probability of a code proportional to
    exp(-|z - q|^2 / temperature).

    Args:
        bits: channels; 2^bits codes.
        kind: `lfq` has the values -1 and 1; `bsq` normalises vectors to length 1 first and has -1 and 1 over
            sqrt(bits).
        temperature: BSQ's paper writes exp(tau q.z) with tau = 100 instead: temperature 2 / tau.
    """

    def __init__(
        self,
        bits: int,
        kind: Literal["lfq", "bsq"],
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        diversity_weight: float = 1.0,
        temperature: float = 0.02,
    ) -> None:
        super().__init__()
        self._levels = (2,) * bits
        self.kind = kind
        self.value = 1 / math.sqrt(bits) if kind == "bsq" else 1.0
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.diversity_weight = diversity_weight
        self.temperature = temperature

    def _smooth(self, z_bnc: Tensor) -> Tensor:
        return F.normalize(z_bnc, dim=-1) if self.kind == "bsq" else z_bnc

    def _round(self, smooth_bnc: Tensor) -> Tensor:
        return (smooth_bnc > 0).long()

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1).float() * self.value

    def _loss(self, smooth_bnc: Tensor, chosen_bnc: Tensor) -> Tensor:
        commitment = F.mse_loss(smooth_bnc, chosen_bnc)
        # |z - v|^2 and |z + v|^2 differ by 4 z v, so a bit is 1 with this probability, independently of the others.
        logits_nc = smooth_bnc.flatten(0, 1) * (4 * self.value / self.temperature)
        ones_nc = logits_nc.sigmoid()
        sure = (F.softplus(logits_nc) - logits_nc * ones_nc).sum(1).mean()
        varied = self._entropy_of_bits(ones_nc) if self.kind == "bsq" else self._entropy_of_codes(ones_nc)
        entropy = sure - self.diversity_weight * varied
        return self.commitment_weight * commitment + self.entropy_weight * entropy

    def _entropy_of_bits(self, ones_nc: Tensor) -> Tensor:
        mean_c = _over_ranks(ones_nc.mean(0))
        return -(torch.xlogy(mean_c, mean_c) + torch.xlogy(1 - mean_c, 1 - mean_c)).sum()

    def _entropy_of_codes(self, ones_nc: Tensor) -> Tensor:
        middle = ones_nc.shape[1] // 2
        low, high = _joint(ones_nc[:, :middle]), _joint(ones_nc[:, middle:])
        mean = _over_ranks(high.T @ low / len(ones_nc))
        return -(mean * mean.clamp(min=_TINY).log()).sum()


def _joint(ones_nc: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
    """Probability of each of the 2^c numbers that c independent bits, lowest first, can make."""
    joint_nk = ones_nc.new_ones(len(ones_nc), 1)
    for one_n in ones_nc.unbind(1):
        joint_nk = torch.cat([joint_nk * (1 - one_n).unsqueeze(1), joint_nk * one_n.unsqueeze(1)], 1)
    return joint_nk


def _over_ranks(mean: Tensor) -> Tensor:
    """The mean over the ranks' means. Its gradient is each rank's own, which data parallelism averages."""
    if world_size() == 1:
        return mean
    return mean + (sum_over_ranks(mean.detach().clone()) / world_size() - mean.detach())
