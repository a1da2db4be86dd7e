"""Multi-head self-attention with a key-value cache of fixed size, for decoder-only transformers (minGPT's, as in TATS,
https://arxiv.org/abs/2204.03638).

Deviation from TATS on purpose: its cache grows by concatenation at every step, which copies quadratically much; this
one is allocated once and written in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vtok.priors.rope import Turns, turn


class KVCache(NamedTuple):
    """Keys and values of all blocks. Positions that were not written yet hold zeros and are never read."""

    keys_lbhnd: Float[Tensor, "l b h n d"]
    values_lbhnd: Float[Tensor, "l b h n d"]


class Linear(nn.Linear):
    """A linear layer whose weights the model draws from its own generator, after it is built."""

    def reset_parameters(self) -> None:
        """Left to the model."""


def visible(block_size: int, n_unmasked: int) -> Bool[Tensor, "q k"]:
    """Which inputs (k) each input (q) sees: the past and, with `n_unmasked` = u > 0, first and last frames of u codes.

    TATS's mask for interpolation: columns 0..u and the last u-1 are open to all; the last u-1 rows see nothing else.
    The asymmetry is the shift by one token between inputs and targets.
    """
    mask = torch.ones(block_size, block_size, dtype=torch.bool).tril()
    if n_unmasked > 0:
        mask[:, : n_unmasked + 1] = True
        mask[:, -n_unmasked + 1 :] = True
        mask[-n_unmasked + 1 :, n_unmasked + 1 : -n_unmasked + 1] = False
    return mask


def prefix_visible(length: int, prefix: int, device: torch.device | None = None) -> Bool[Tensor, "q k"]:
    """Which inputs (k) each input (q) sees: all of the first `prefix`, and its past."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask[:, :prefix] = True
    return mask


class HeadNorm(nn.RMSNorm):
    """x / root mean square of x, times a gain, in the dtype of x: torch's kernel wants one dtype for both."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=torch.finfo(torch.float32).eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Attention of `n_head` heads, scaled by 1/sqrt(width of a head). Ignores `mask` of original state dicts.

    Args:
        n_embd: width of the residual stream.
        n_head: heads.
        dropout: of the probabilities, in training.
        qk_norm: normalise queries and keys by their root mean square, head by head
            (https://arxiv.org/abs/2302.05442).
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, qk_norm: bool = False) -> None:
        super().__init__()
        self.n_head, self.dropout = n_head, dropout
        self.key = Linear(n_embd, n_embd)
        self.query = Linear(n_embd, n_embd)
        self.value = Linear(n_embd, n_embd)
        self.proj = Linear(n_embd, n_embd)
        self.norms = nn.ModuleList(HeadNorm(n_embd // n_head) for _ in range(2)) if qk_norm else None

    def forward(
        self,
        x_bne: Float[Tensor, "b n e"],
        mask_nn: Bool[Tensor, "n n"] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        position: int = 0,
        turns: Turns | None = None,
    ) -> Float[Tensor, "b n e"]:
        """Attend.

        Args:
            x_bne: at position 0 the whole sequence or its beginning; later, one position at a time.
            mask_nn: True where a query (first axis) sees a key; None: the past.
            cache: written at `position` for block `layer`, and read up to there.
            turns: rotary positions of the inputs; None: there are none.
        """
        query, key, value = (
            layer_of(x_bne).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for layer_of in (self.query, self.key, self.value)
        )
        if self.norms is not None:
            query, key = self.norms[0](query), self.norms[1](key)
        if turns is not None:
            query, key = turn(query, turns), turn(key, turns)
        if cache is not None:
            end = position + x_bne.shape[1]
            keys, values = cache.keys_lbhnd[layer], cache.values_lbhnd[layer]
            keys[:, :, position:end] = key
            values[:, :, position:end] = value
            key, value = keys[:, :, :end], values[:, :, :end]
        single = x_bne.shape[1] == 1 and position > 0
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if single else mask_nn,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask_nn is None and not single,
        )
        return self.proj(out.transpose(1, 2).flatten(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(prefix + "mask", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
