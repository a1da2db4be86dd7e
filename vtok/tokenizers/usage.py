"""Notices a codebook that collapses while it trains, says which setting to change, and draws how often codes occur."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw

from schemas.config.tokenizer import TokenizerTrainConfig, VqganConfig, VqvaeConfig

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 28
_INK, _BAR, _PAPER = (34, 34, 34), (38, 110, 190), (255, 255, 255)


def collapse_warnings(
    perplexity: float,
    dead: int,
    positions: int,
    restarted: float,
    model: VqganConfig | VqvaeConfig,
    train: TokenizerTrainConfig,
) -> list[str]:
    """What is wrong with the codebook, each with the setting to change; nothing where it is well.

    Args:
        perplexity: of the codes of the held-out clips.
        dead: how many codes do not occur in those clips.
        positions: how many codes those clips have; no perplexity can be larger, and no more codes can occur.
        restarted: share of the codes whose moving count is below `restart_threshold`, 0..1.
        model: the architecture; its codebook settings are named.
        train: its `warn_usage_below`, `warn_dead_above` and `warn_restarts_above` are the thresholds.
    """
    found = []
    possible = min(model.n_codes, positions)
    if perplexity < train.warn_usage_below * possible:
        found.append(
            f"the codebook collapses: perplexity {perplexity:.1f} where {possible:,} codes could occur "
            f"(below {train.warn_usage_below:.0%}); {_advice(model)}"
        )
    elif possible - (model.n_codes - dead) > train.warn_dead_above * possible:  # a collapse has said it
        found.append(
            f"codes are dead: {model.n_codes - dead:,} occur where {possible:,} could (more than "
            f"{train.warn_dead_above:.0%} never do); {_advice(model)}"
        )
    if model.quantizer == "codebook" and model.random_restart and restarted > train.warn_restarts_above:
        found.append(
            f"{restarted:.0%} of the {model.n_codes:,} codes are restarted in every batch, because a batch has too few "
            "vectors for them; lower tokenizer.model.n_codes or tokenizer.model.restart_threshold, raise "
            "tokenizer.train.batch_size, or set tokenizer.model.random_restart to false"
        )
    return found


def _advice(model: VqganConfig | VqvaeConfig) -> str:
    if model.quantizer == "fsq":
        return "take fewer or smaller tokenizer.model.levels, or lower tokenizer.train.generator.lr"
    if model.quantizer != "codebook":
        return "raise tokenizer.model.diversity_weight, or lower tokenizer.model.bits"
    if not model.random_restart:
        return "set tokenizer.model.random_restart to true"
    return "lower tokenizer.model.n_codes or tokenizer.model.embedding_dim, or tokenizer.train.generator.lr"


def usage_picture(counts_k: Int64[np.ndarray, " k"]) -> UInt8[np.ndarray, "h w 3"]:
    """How often each code occurs: codes from the most to the least frequent, counts on a logarithmic scale.

    Codes that never occur leave the right of the picture empty. More codes than columns share a column, which shows the
    most frequent of them.
    """
    counts = np.sort(counts_k)[::-1]
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    top = max(1, int(counts[0]))
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(picture)
    bottom = _HEIGHT - _MARGIN
    for column in range(width):
        count = int(counts[column * len(counts) // width])
        if count:
            bar = max(1, round(height * np.log1p(count) / np.log1p(top)))
            draw.line([(_MARGIN + column, bottom - bar), (_MARGIN + column, bottom)], fill=_BAR)
    draw.line([(_MARGIN, bottom + 1), (_WIDTH - _MARGIN, bottom + 1)], fill=_INK)
    used = int((counts > 0).sum())
    title = f"{used:,} of {len(counts):,} codes occur; the most frequent one {top:,} of {int(counts.sum()):,} times"
    draw.text((_MARGIN, 8), title, fill=_INK)
    return np.asarray(picture)
