"""Checkpoints of VideoGPT (https://arxiv.org/abs/2104.10157): the VQ-VAE, and the GPT, which holds a whole VQ-VAE."""

from __future__ import annotations

from torch import Tensor

from schemas.config.prior import VideoGptConfig
from schemas.config.tokenizer import VqvaeConfig
from schemas.errors import UsageError
from vtok.convert.models import (
    Models,
    Tensors,
    TokenizerModel,
    below,
    config_of,
    count,
    factors_between,
    prior_model,
    shape_of,
    tokenizer_model,
    triple,
)
from vtok.convert.settings import Settings
from vtok.priors.build import Facts


def vqvae(tensors: Tensors, settings: Settings) -> Models:
    """The tokenizer of `train_vqvae.py`."""
    model = _tokenizer(tensors, settings, settings.need("downsample", "no weight's shape depends on it"))
    return Models({"tokenizer": model})


def _tokenizer(tensors: Tensors, settings: Settings, downsample: object) -> TokenizerModel:
    at = settings.at
    width, channels = shape_of(tensors, "encoder.convs.0.conv.weight", "VQ-VAE of VideoGPT", at)[:2]
    n_codes, dim = shape_of(tensors, "codebook.embeddings", "codebook", at)
    blocks = count(tensors, r"encoder\.res_stack\.(\d+)\.block\.")
    factors = triple(downsample, "downsample", at)
    levels = count(tensors, r"encoder\.convs\.(\d+)\.")
    if max(factors) != 2**levels:
        raise UsageError(f"downsample {list(factors)} does not fit {levels} strided convolutions", at=at)
    values = {
        "embedding_dim": dim,
        "n_codes": n_codes,
        "n_hiddens": width,
        "n_res_layers": blocks,
        "downsample": factors,
        "image_channels": channels,
    }
    config = config_of(VqvaeConfig, values, at)
    return tokenizer_model(config, tensors, at, _grid(config, settings))


def _grid(config: VqvaeConfig, settings: Settings) -> tuple[int, int, int] | None:
    frames, side = settings.get("sequence_length"), settings.get("resolution")
    if not isinstance(frames, int) or not isinstance(side, int):
        return None
    try:
        return config.grid(frames, side, side)
    except ValueError:
        return None


def gpt(tensors: Tensors, settings: Settings) -> Models:
    """The prior of `train_videogpt.py`, and the tokenizer in it.

    Raises:
        UsageError: settings are missing or contradict the weights, or tensors do not fit.
    """
    at = settings.at
    tables = "attn_stack.pos_embd.emb.d_"
    t, h, w = (shape_of(tensors, f"{tables}{axis}", "GPT of VideoGPT", at)[0] for axis in range(3))
    embedded, own = below(tensors, "vqvae."), {k: v for k, v in tensors.items() if not k.startswith("vqvae.")}
    width = shape_of(tensors, "fc_in.weight", "GPT of VideoGPT", at)[0]
    layers = count(own, r"attn_stack\.attn_nets\.(\d+)\.")
    classes = own["norm.w.weight"].shape[1] if "norm.w.weight" in own else 0
    given = own["cond_pos_embd.emb.d_0"].shape[0] if "cond_pos_embd.emb.d_0" in own else 0
    settings.check({"hidden_dim": width, "layers": layers, "n_cond_frames": given})
    attention = settings.assume("attn_type", "full")
    values = {
        "n_layer": layers,
        "n_head": settings.need("heads", "no weight's shape depends on it"),
        "n_embd": width,
        "condition": "label" if classes else "none",
        "attention": attention,
        "cond_frames": given,
        "frame_width": 3 * own["cond_pos_embd.emb.d_0"].shape[1] if given else 240,
        "dropout": settings.assume("dropout", 0.2),
        # The original's sparse attention takes the setting and does not use it.
        "attention_dropout": 0.0 if attention == "sparse" else settings.assume("attn_dropout", 0.3),
    }
    config = config_of(VideoGptConfig, values, at)
    factors = factors_between(settings, settings.count("sequence_length"), (t, h, w))
    tokenizer = _tokenizer(embedded, settings, factors)
    codebook: Tensor = embedded["codebook.embeddings"]
    # A frame's features have a quarter of its side.
    resolution = 4 * own["cond_pos_embd.emb.d_1"].shape[0] if given else 0
    facts = Facts(len(codebook), (t, h, w), classes, resolution, lambda: codebook)
    prior = prior_model(config, {**own, "codebook_kc": codebook.clone()}, facts, at)
    return Models({"tokenizer": tokenizer}, prior)
