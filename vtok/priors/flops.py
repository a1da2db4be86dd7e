"""How many floating-point operations a prior costs in training, by formula: matrix products and convolutions only.

A product of (n, a) and (a, b) costs 2nab. Backward costs twice the forward pass. Attention counts whole rows even where
it is causal, as is the custom (https://arxiv.org/abs/2204.02311, appendix B); the sparse pattern counts its blocks.
"""

from __future__ import annotations

import math

import torch

from schemas.config.prior import GptConfig, MebtConfig, VideoGptConfig
from vtok.priors.base import ModelConfig, Shape
from vtok.priors.frame_condition import BLOCKS, STRIDES, WIDTHS
from vtok.priors.masking import SCHEDULES
from vtok.priors.sparse import BLOCK, block_layout


def flops_per_token(
    config: ModelConfig, n_codes: int, grid: Shape, *, embedding_dim: int = 256, resolution: int = 0
) -> float:
    """Operations of a training step (forward and backward) a code of the clip.

    Args:
        config: the prior.
        n_codes: size of the tokenizer's codebook.
        grid: codes (t, h, w) of a clip of the store.
        embedding_dim: channels of the codebook, for VideoGPT.
        resolution: height and width of VideoGPT's conditioning frames, pixels.
    """
    if isinstance(config, GptConfig):
        forward = _gpt(config, n_codes, grid)
    elif isinstance(config, VideoGptConfig):
        forward = _videogpt(config, n_codes, grid, embedding_dim, resolution)
    else:
        forward = _mebt(config, n_codes, grid)
    return 3 * forward / math.prod(grid)


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


def _mebt(config: MebtConfig, n_codes: int, grid: Shape) -> float:
    """On average over the times that training draws, on whole clips."""
    codes = math.prod(grid)
    low, high = config.t_range
    times = low + (torch.arange(256) + 0.5) / 256 * (high - low)
    masked = float(SCHEDULES[config.schedule](times).mean()) * codes
    predicted = masked if config.budget is None else min(masked, config.budget)
    return mebt_forward(config, n_codes, codes - masked, predicted)


def mebt_forward(config: MebtConfig, n_codes: int, contexts: float, targets: float) -> float:
    """A forward pass of MeBT's prior on a clip with so many codes that are seen and predicted."""
    latents, width, both = config.latents, config.n_embd, contexts + targets
    query_and_read = {
        "latent_enc": (latents, contexts),
        "latent_self": (latents, latents),
        "latent_dec": (targets, latents),
        "lt2l": (latents, latents + targets),
        "maskgit": (both, both),
    }
    total = 2 * targets * width * n_codes
    for mode in config.modes():
        query, read = query_and_read[mode]
        total += query * 20 * width**2 + read * 4 * width**2 + 4 * query * read * width
    return total
