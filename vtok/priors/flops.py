"""How many floating-point operations a prior costs in training, by formula: matrix products and convolutions only.

A product of (n, a) and (a, b) costs 2nab. Backward costs twice the forward pass. Attention counts whole rows even where
it is causal, as is the custom (https://arxiv.org/abs/2204.02311, appendix B); the sparse pattern counts its blocks.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from vtok.priors.base import ModelConfig, Shape
from vtok.priors.frame_condition import BLOCKS, STRIDES, WIDTHS
from vtok.priors.masking import SCHEDULES, beta_at, length_probabilities
from vtok.priors.sparse import BLOCK, block_layout


def codes_trained_on(config: ModelConfig, grid: Shape, step: int = 0) -> float:
    """Codes of a clip that a training step sees or predicts: all, but for key frames (TATS) and for parts of clips
    (MeBT's `t_prior`: the mean of the lengths that it draws at this step).

    Args:
        config: the prior.
        grid: codes (t, h, w) of a clip of the store.
        step: optimiser step, from 0.
    """
    frames: float = grid[0]
    if isinstance(config, GptConfig):
        frames = math.ceil(grid[0] / config.latent_stride)
    elif isinstance(config, MebtConfig):
        frames = sum(float(p) * (i + 1) for i, p in enumerate(length_probabilities(config.t_prior, grid[0], step)))
    return frames * grid[1] * grid[2]


def flops_per_token(
    config: ModelConfig, n_codes: int, grid: Shape, *, embedding_dim: int = 256, resolution: int = 0, step: int = 0
) -> float:
    """Operations of a training step (forward and backward) a code that it is trained on.

    Args:
        config: the prior.
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip of the store.
        embedding_dim: channels of the codebook, for VideoGPT.
        resolution: height and width of VideoGPT's conditioning frames, pixels.
        step: optimiser step, from 0: MeBT draws other lengths and times later on.
    """
    if isinstance(config, GptConfig):
        forward = _gpt(config, n_codes, grid)
    elif isinstance(config, VideoGptConfig):
        forward = _videogpt(config, n_codes, grid, embedding_dim, resolution)
    else:
        forward = _mebt(config, n_codes, grid, step)
    return 3 * forward / codes_trained_on(config, grid, step)


def _block(inputs: float, width: int, seen: float) -> float:
    """A transformer block: projections, attention to `seen` places, a feed-forward layer of four times the width."""
    return inputs * (24 * width**2 + 4 * seen * width)


def _gpt(config: GptConfig, n_codes: int, grid: Shape) -> float:
    codes = math.ceil(grid[0] / config.latent_stride) * grid[1] * grid[2]
    inputs = config.tokens_before - 1 + codes
    predicted = codes - 2 * grid[1] * grid[2] if config.interpolation == "prefix" else codes
    columns = n_codes + (config.condition_vocabulary or 0 if config.parity else 0)
    return config.n_layer * _block(inputs, config.n_embd, inputs) + 2 * predicted * config.n_embd * columns


def _videogpt(config: VideoGptConfig, n_codes: int, grid: Shape, embedding_dim: int, resolution: int) -> float:
    codes, width = math.prod(grid), config.n_embd
    seen: float = codes
    if config.attention == "sparse":
        seen = int(block_layout(grid).sum()) * BLOCK**2 / codes
    total = config.n_layer * _block(codes, width, seen) + 2 * codes * width * (n_codes + embedding_dim)
    if config.cond_frames:
        encoder, places = _frame_encoder(config, resolution)
        features = config.frame_width
        reading = codes * (2 * width**2 + 2 * features * width + 2 * places * (width + features))
        keys_values = 2 * places * features * (width + features)
        total += encoder + config.n_layer * (reading + keys_values)
    return total


def _frame_encoder(config: VideoGptConfig, resolution: int) -> tuple[float, int]:
    """Operations of the ResNet of the conditioning frames, and places of its features."""
    side, width_in = resolution, WIDTHS[0]
    total = 2 * 27 * 3 * width_in * config.cond_frames * side**2
    for width, count, stride in zip((*WIDTHS, config.frame_width), BLOCKS, STRIDES, strict=True):
        side = math.ceil(side / stride)
        first = width_in * (27 + 1) + width * 27  # with the projection
        total += 2 * width * config.cond_frames * side**2 * (first + (count - 1) * 54 * width)
        width_in = width
    return total, config.cond_frames * side**2


def _mebt(config: MebtConfig, n_codes: int, grid: Shape, step: int) -> float:
    """On average over the parts of a clip and the times that training draws at this step."""
    chances_l = length_probabilities(config.t_prior, grid[0], step).double()
    lengths_l1 = torch.arange(1, grid[0] + 1, dtype=torch.float64).unsqueeze(1) * grid[1] * grid[2]
    even_t = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    weights_t = torch.ones_like(even_t)
    if config.beta_prior is not None:
        a, b = beta_at(config.beta_prior, step, config.beta_steps)
        weights_t = even_t ** (a - 1) * (1 - even_t) ** (b - 1)
    low, high = config.t_range
    masked_lt = SCHEDULES[config.schedule](low + even_t * (high - low)) * lengths_l1
    predicted_lt = masked_lt if config.budget is None else masked_lt.clamp_max(config.budget)
    forward_lt = mebt_forward(config, n_codes, lengths_l1 - masked_lt, predicted_lt)
    return float((forward_lt * weights_t).sum(1) / weights_t.sum() @ chances_l)


Count = TypeVar("Count", float, Tensor)


def mebt_forward(config: MebtConfig, n_codes: int, contexts: Count, targets: Count) -> Count:
    """A forward pass of MeBT's prior on a clip with so many codes that are seen and predicted."""
    latents, width, both = config.latents, config.n_embd, contexts + targets
    query_and_read: dict[str, tuple[Any, Any]] = {
        "latent_enc": (latents, contexts),
        "latent_self": (latents, latents),
        "latent_dec": (targets, latents),
        "lt2l": (latents, latents + targets),
        "maskgit": (both, both),
    }
    total = 2 * targets * width * n_codes
    for mode in config.modes():
        query, read = query_and_read[mode]
        total = total + query * 20 * width**2 + read * 4 * width**2 + 4 * query * read * width
    return total
