"""Checkpoints of MeBT (https://arxiv.org/abs/2303.11251): the transformer, and TATS's VQGAN in it.

The config is OmegaConf's, in the checkpoint; the tokenizer's downsampling follows from the mask's shape and the size of
a clip, which stands in the YAML file beside (`--config`).
"""

from __future__ import annotations

import math

from schemas.config.prior import MebtConfig
from schemas.errors import UsageError
from vtok.convert.models import Models, Tensors, below, config_of, count, factors_between, prior_model, shape_of, triple
from vtok.convert.settings import Settings
from vtok.convert.tats import embedded_vqgan, frames_of
from vtok.priors.build import Facts

_NO_SHAPE = "no weight's shape depends on it"


def transformer(tensors: Tensors, settings: Settings) -> Models:
    """The prior of `train_transformer.py`, and the tokenizer in it.

    Raises:
        UsageError: settings are missing or contradict the weights, or tensors do not fit.
    """
    at = settings.at
    first = below(tensors, "first_stage_model.")
    own = {name: v for name, v in tensors.items() if not name.startswith(("first_stage_model.", "cond_stage_model."))}
    n_codes, width = shape_of(own, "tok_emb.weight", "transformer of MeBT", at)
    block = shape_of(own, "pos_emb", "transformer of MeBT", at)[1]
    layers = count(own, r"transformer\.blocks\.(\d+)\.")
    latents = own["sos_emb"].shape[1] if "sos_emb" in own else 0
    settings.check({"n_layer": layers, "n_embd": width, "block_size": block})
    grid = triple(settings.need("shape", "the grid of codes of a clip"), "shape", at)
    if math.prod(grid) > block:
        raise UsageError(f"a grid of {list(grid)} codes does not fit in {block} positions", at=at)
    sizes = {"n_layer": layers, "n_embd": width, "latents": latents}
    config = config_of(MebtConfig, {**mebt_settings(settings), **sizes}, at)
    own["pos_emb"] = own["pos_emb"][:, : math.prod(grid)].clone()
    tokenizers = {}
    if first:
        # Lists of images count sampled frames, and so do settings that do not say what is counted.
        sampled = settings.get("image_folder") is not False
        frames = settings.count("sequence_length") if sampled else frames_of(settings)
        tokenizer = embedded_vqgan(first, settings, factors_between(settings, frames, grid), grid)
        if tokenizer.config.n_codes != n_codes:
            raise UsageError(
                f"the prior has {n_codes} codes, the tokenizer in it {tokenizer.config.n_codes}",
                at=at,
                hint="the file was put together of two that do not belong together",
            )
        tokenizers["tokenizer"] = tokenizer
    return Models(tokenizers, prior_model(config, own, Facts(n_codes, grid), at))


def mebt_settings(settings: Settings) -> dict[str, object]:
    """The fields of `MebtConfig` that MeBT's own settings decide, sizes excepted."""
    smoothing, beta = settings.get("label_smoothing"), settings.get("beta_params")
    dropout = [settings.get(name) for name in ("embd_pdrop", "resid_pdrop")]
    if dropout[0] != dropout[1]:
        settings.noted.append(f"dropout: resid_pdrop {dropout[1]} everywhere, embd_pdrop was {dropout[0]}")
    found: dict[str, object] = {
        "kind": "mebt",
        "n_head": settings.need("n_head", _NO_SHAPE),
        "mode": settings.need("mode", "what each layer does"),
        "schedule": settings.assume("schedule", "linear"),
        "t_range": settings.assume("t_range", [0.0, 1.0]),
        "budget": settings.get("budget"),
        "t_prior": settings.assume("t_prior", "longest"),
        "avg_loss": float(settings.assume("avg_loss", True)),
        "label_smoothing": smoothing or 0.0,
        "dropout": dropout[1] or 0.0,
        "attention_dropout": settings.get("attn_pdrop") or 0.0,
        "parity": True,
    }
    if beta is not None:
        found |= {"beta_prior": beta, "beta_steps": settings.need("beta_iter", "steps in which beta_params fade")}
    return found
