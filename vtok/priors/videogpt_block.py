"""A block of VideoGPT's prior (https://arxiv.org/abs/2104.10157): conditional normalisation, attention to the codes
before and to the conditioning frames, a feed-forward layer. Parameter names are the original's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from schemas.config.prior import VideoGptConfig
from vtok.priors.attention import Linear
from vtok.priors.flex import attend

Mask = Tensor | BlockMask | None
"""Which codes see which: True in a tensor, a kernel's mask, or (None) the past."""
_SMALLEST = 1e-30  # of a variance: far below what float32 activations have unless they are constant


class Norm(nn.Module):
    """(x - mean) * (1e-5 + 1 / sqrt(variance)), times a gain, plus a bias, in float32; a class gives gain and bias."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        if n_classes:
            self.w = Linear(n_classes, width, bias=False)
            self.wb = Linear(n_classes, width, bias=False)
        else:
            self.g = nn.Parameter(torch.ones(width))
            self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x_bne: Float[Tensor, "b n e"], labels_b: Int[Tensor, " b"] | None) -> Float[Tensor, "b n e"]:
        x = x_bne.float()
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        normal = (centred * (1e-5 + variance.clamp_min(_SMALLEST).rsqrt())).to(x_bne.dtype)
        if not self.n_classes:
            return normal * self.g + self.b
        assert labels_b is not None
        gain = 1 + self.w.weight.t()[labels_b].unsqueeze(1)  # a linear layer of a one-hot vector
        return normal * gain + self.wb.weight.t()[labels_b].unsqueeze(1)


class MultiHeadAttention(nn.Module):
    """Attention of one sequence to itself or to another."""

    def __init__(self, width: int, width_kv: int, heads: int, values: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.w_qs = Linear(width, width, bias=False)
        self.w_ks = Linear(width_kv, width, bias=False)
        self.w_vs = Linear(width_kv, values, bias=False)
        self.fc = Linear(values, width)

    def keys_values(self, x_bne: Tensor) -> tuple[Tensor, Tensor]:
        """(b, heads, n, d) each."""
        key, value = (w(x_bne).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.w_ks, self.w_vs))
        return key, value

    def forward(
        self, x_bne: Tensor, key_bhnd: Tensor, value_bhnd: Tensor, mask_nk: Mask, *, causal: bool
    ) -> Float[Tensor, "b n e"]:
        query = self.w_qs(x_bne).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if isinstance(mask_nk, BlockMask):
            return self.fc(attend(query, key_bhnd, value_bhnd, mask_nk).transpose(1, 2).flatten(2))
        out = F.scaled_dot_product_attention(
            query,
            key_bhnd,
            value_bhnd,
            attn_mask=mask_nk,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and mask_nk is None,
        )
        return self.fc(out.transpose(1, 2).flatten(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(prefix + "attn.mask", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FastGelu(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Context(NamedTuple):
    """What a batch is conditioned on.

    Attributes:
        labels_b: a class a clip, or None.
        frames_bnc: features of the conditioning frames, or None.
    """

    labels_b: Tensor | None = None
    frames_bnc: Tensor | None = None


class Past(NamedTuple):
    """Keys and values of one block, (b, heads, n, d), written up to `position`."""

    keys: Tensor
    values: Tensor
    position: int


class Block(nn.Module):
    """x += attention(norm(x)); x += attention_to_frames(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: VideoGptConfig, n_classes: int, frame_width: int) -> None:
        super().__init__()
        width = config.n_embd
        self.pre_attn_norm = Norm(width, n_classes)
        self.attn = MultiHeadAttention(width, width, config.n_head, width, config.attention_dropout)
        self.reads_frames = frame_width > 0
        if self.reads_frames:
            self.pre_enc_norm = Norm(width, n_classes)
            self.enc_attn = MultiHeadAttention(width, frame_width, config.n_head, frame_width, 0.0)
        self.pre_fc_norm = Norm(width, n_classes)
        self.fc_block = nn.Sequential(Linear(width, 4 * width), FastGelu(), Linear(4 * width, width))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_bne: Tensor, context: Context, mask_nn: Mask, past: Past | None) -> Tensor:
        normal = self.pre_attn_norm(x_bne, context.labels_b)
        key, value = self.attn.keys_values(normal)
        if past is None:
            mixed = self.attn(normal, key, value, mask_nn, causal=True)
        else:
            end = past.position + 1
            past.keys[:, :, past.position : end], past.values[:, :, past.position : end] = key, value
            mixed = self.attn(normal, past.keys[:, :, :end], past.values[:, :, :end], mask_nn, causal=False)
        x_bne = x_bne + self.drop(mixed)
        if self.reads_frames:
            assert context.frames_bnc is not None
            key, value = self.enc_attn.keys_values(context.frames_bnc)
            normal = self.pre_enc_norm(x_bne, context.labels_b)
            x_bne = x_bne + self.drop(self.enc_attn(normal, key, value, None, causal=False))
        return x_bne + self.drop(self.fc_block(self.pre_fc_norm(x_bne, context.labels_b)))
