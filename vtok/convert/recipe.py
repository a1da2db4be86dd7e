"""The originals' configs as recipes. What has no place in a recipe is listed, with the reason; nothing is dropped.

Priors get `parity`, as in the recipes that come with vtok: what they learn then fits the originals' checkpoints.
Tokenizers do not: their quirks only cost time or quality, and are listed among what is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from schemas.config import load_recipe
from schemas.errors import UsageError
from vtok.convert.models import triple
from vtok.convert.originals import read_settings
from vtok.convert.reasons import REASONS
from vtok.convert.taken import Taken
from vtok.files import write_bytes

Tree = dict[str, Any]


@dataclass(frozen=True)
class Translated:
    """What came of a config.

    Attributes:
        system: whose it was, a kind of `vtok.convert.kinds.KINDS`.
        recipe: the recipe's tree.
        left_out: settings that have no place in a recipe, and why.
        unknown: settings that vtok does not know.
        assumed: what the config does not say.
    """

    system: str
    recipe: Tree
    left_out: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


class _Dumper(yaml.SafeDumper):
    """Writes everything out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def translate(system: str, values: Mapping[str, Any], at: str) -> Translated:
    """A recipe of the originals' settings, under their names.

    Raises:
        UsageError: a value is not of its kind.
    """
    taken = Taken(values, at)
    recipe = {"name": f"from {system}", "out": f"runs/{system}", **_SYSTEMS[system](taken)}
    rest = {name: value for name, value in taken.values.items() if name not in taken.used}
    left_out = {name: REASONS[name] for name in rest if name in REASONS}
    unknown = {name: value for name, value in rest.items() if name not in REASONS}
    return Translated(system, recipe, left_out, unknown, taken.assumed)


def write_recipe(config: Path, out: Path, given: Mapping[str, Any] | None = None) -> Translated:
    """Translates a config file and writes the recipe; it is read back, so that it is known to be one.

    Args:
        given: settings that count more than the file's.

    Raises:
        UsageError: the file is no config of these systems, or `out` is there already.
        ConfigError: the settings make no sound recipe.
    """
    if out.exists():
        raise UsageError("this is there already", at=str(out), hint="choose another name for the recipe")
    original = read_settings(config)
    made = translate(original.system, {**original.values, **(given or {})}, str(config))
    notes = [f"# Assumed: {line}" for line in made.assumed]
    notes += [f"# Left out: {name}: {why}." for name, why in made.left_out.items()]
    notes += [f"# Unknown: {name}={value}" for name, value in made.unknown.items()]
    notes = [" ".join(note.split()) for note in notes]  # a value with line breaks stays in its comment
    head = [f"# Translated from settings of {original.system} by `vtok convert --config`.", "#", *notes]
    body = yaml.dump(made.recipe, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)
    text = "\n".join([*head, ""]) + body
    write_bytes(out, text.encode())
    try:
        load_recipe(out)
    except UsageError as error:
        out.unlink()
        raise UsageError(f"these settings make no sound recipe: {error}", at=str(config)) from None
    return made


def _data(taken: Taken, side: int, *, counts_sampled: bool = False, layout: str | None = None) -> Tree:
    """Section `data`. The originals' video folders and HDF5 files count source frames, image folders sampled ones."""
    root = str(taken.take("data_path", "datasets/mine"))
    folder = bool(taken.take("image_folder", False))
    every = taken.whole("sample_every_n_frames", 1, least=1)
    length = taken.whole("sequence_length", 16, least=1)
    if layout is None:
        layout = "hdf5" if root.endswith((".hdf5", ".h5")) else "frames" if folder else "folder"
    data: Tree = {
        "root": root,
        "layout": layout,
        "resolution": taken.whole("resolution", side, least=1),
        "num_frames": length if counts_sampled or folder else length // every,
    }
    if every > 1:
        data["frame_stride"] = every
    if taken.take("frame_rate", None) is not None:
        data["frame_rate"] = float(taken.number("frame_rate", 0))
    return data


def _batch(taken: Taken, default: int) -> int:
    """Clips in an optimiser step, over all GPUs and accumulated batches."""
    return _batch_of_a_machine(taken, default) * taken.whole("num_nodes", 1, least=1)


def _batch_of_a_machine(taken: Taken, default: int) -> int:
    """What the originals' learning rates grow with: they do not ask for the number of machines."""
    accumulate = taken.whole("accumulate_grad_batches", 1, least=1)
    return taken.whole("batch_size", default, least=1) * taken.ranks() * accumulate


def _clip(taken: Taken) -> float | None:
    """Lightning's 0 is no clipping."""
    return float(taken.number("gradient_clip_val", 0.0)) or None


def _vqgan(taken: Taken) -> Tree:
    batch, perceptual = _batch(taken, 32), taken.number("perceptual_weight", 0.0)
    lr = _batch_of_a_machine(taken, 32) / 32 * taken.number("lr", 3e-4)
    adam = {"optimizer": "adam", "lr": lr, "betas": [0.5, 0.9], "weight_decay": 0.0, "clip_grad_norm": _clip(taken)}
    loss: Tree = {
        "l1_weight": taken.number("l1_weight", 4.0),
        "perceptual_weight": perceptual,
        "image_gan_weight": taken.number("image_gan_weight", 1.0),
        "video_gan_weight": taken.number("video_gan_weight", 1.0),
        "gan_feature_weight": taken.number("gan_feat_weight", 0.0),
        "discriminator_start": taken.whole("discriminator_iter_start", 50000),
    }
    if perceptual:
        loss["lpips_weights"] = "weights/lpips.safetensors"
        taken.assumed.append("lpips_weights: a file with VGG16 and the LPIPS heads, to be put there by you")
    taken.assumed.append(
        "tokenizer.parity: false; true trains as the original: two passes a batch, discriminators that run before "
        "they join, LPIPS at half contrast and with dropout, a codebook that starts from the first rank's clips"
    )
    synced = taken.values.get("sync_batchnorm") or taken.ranks() == taken.whole("num_nodes", 1, least=1) == 1
    if taken.values.get("norm_type") == "batch" and not synced:
        taken.assumed.append("sync_batchnorm: true; norms see the batch of all ranks, the original's only their own")
    return {
        "data": _data(taken, 64),
        "tokenizer": {
            "model": {
                "kind": "vqgan",
                "embedding_dim": taken.take("embedding_dim", 256),
                "n_codes": taken.take("n_codes", 2048),
                "n_hiddens": taken.take("n_hiddens", 240),
                "downsample": list(triple(taken.take("downsample", [4, 4, 4]), "downsample", taken.at)),
                "image_channels": taken.take("image_channels", 3),
                "norm": taken.take("norm_type", "group"),
                "padding": taken.take("padding_type", "replicate"),
                "random_restart": not taken.take("no_random_restart", False),
                "restart_threshold": taken.number("restart_thres", 1.0),
            },
            "discriminators": {
                "channels": taken.take("disc_channels", 64),
                "layers": taken.take("disc_layers", 3),
                "loss": taken.take("disc_loss_type", "hinge"),
            },
            "loss": loss,
            "train": {**_steps(taken), "batch_size": batch, "generator": adam, "discriminator": adam},
        },
    }


def _steps(taken: Taken) -> Tree:
    if taken.take("max_steps", -1) == -1:  # Lightning's word for no limit
        taken.assumed.append("train.steps: vtok's default, for the config has no max_steps")
        return {}
    return {"steps": taken.whole("max_steps", 0, least=1)}


def _vqvae(taken: Taken) -> Tree:
    model = {name: taken.take(name, default) for name, default in _VQVAE_DEFAULTS.items()}
    model["downsample"] = list(triple(model["downsample"], "downsample", taken.at))
    train = {
        "steps": 200_000 if taken.take("max_steps", -1) == -1 else taken.whole("max_steps", 0, least=1),
        "batch_size": _batch(taken, 32),
        "generator": {"clip_grad_norm": _clip(taken)},
    }
    if taken.ranks() > 1:
        taken.assumed.append("tokenizer.parity: false; true lets every rank's norms see its own clips, as the original")
    return {"data": _data(taken, 64), "tokenizer": {"model": {"kind": "vqvae", **model}, "train": train}}


_VQVAE_DEFAULTS = {
    "embedding_dim": 256,
    "n_codes": 2048,
    "n_hiddens": 240,
    "n_res_layers": 4,
    "downsample": [4, 4, 4],
}


def _videogpt(taken: Taken) -> Tree:
    name = str(taken.take("vqvae", "kinetics_stride4x4x4"))
    stride = re.search(r"stride(\d+)x(\d+)x(\d+)", name)
    factors = taken.take("downsample", [int(n) for n in stride.groups()] if stride else None)
    if factors is None:
        taken.assumed.append("tokenizer.model.downsample: [4, 4, 4]; the tokenizer's own file is not the config's")
    given, attention = taken.whole("n_cond_frames", 0), taken.take("attn_type", "full")
    dropout = taken.take("attn_dropout", 0.3)
    if attention == "sparse":
        taken.assumed.append(f"attention_dropout: 0; the original's sparse attention does not use its {dropout}")
        dropout = 0.0
    model = {
        "kind": "videogpt",
        "n_layer": taken.take("layers", 8),
        "n_head": taken.take("heads", 4),
        "n_embd": taken.take("hidden_dim", 576),
        "condition": "label" if taken.take("class_cond", False) else "none",
        "attention": attention,
        "cond_frames": given,
        "dropout": taken.take("dropout", 0.2),
        "attention_dropout": dropout,
    }
    return {
        "data": _data(taken, 128),
        "tokenizer": {"model": {"kind": "vqvae", "downsample": factors or [4, 4, 4]}},
        "prior": {
            "model": model,
            "train": {
                **_steps(taken),
                "batch_size": _batch(taken, 8),
                "optim": {"clip_grad_norm": _clip(taken)},
            },
        },
        **({"tokens": {"cond_frames": given}} if given else {}),
    }


def _gpt(taken: Taken) -> Tree:
    key = taken.take("cond_stage_key", "label")
    plain = "none" if taken.take("unconditional", False) else "label"
    condition = {"text": "text", "stft": "audio"}.get(key, plain)
    model: Tree = {
        "kind": "gpt",
        "n_layer": taken.take("n_layer", 48),
        "n_head": taken.take("n_head", 24),
        "n_embd": taken.take("n_embd", 1536),
        "condition": condition,
        "interpolation": "tats" if taken.number("n_unmasked", 0) else "none",
        "latent_stride": taken.whole("sample_every_n_latent_frames", 0) or 1,
        "parity": True,
    }
    data = _data(taken, 64)
    if condition == "audio":
        # A spectrum of 64 x 16 a frame, at 4x8x8.
        model["condition_length"] = taken.whole("stft_tokens", max(1, data["num_frames"] // 4) * 8 * 2, least=1)
        model["condition_vocabulary"] = taken.whole("stft_codes", 1024, least=1)
        taken.assumed.append("condition_length, condition_vocabulary: of the sound's tokenizer; check them")
        taken.assumed.append("tokens.audio: none; name the run of the sound's tokenizer there")
    if condition == "text":
        model |= {"condition_length": 256, "condition_vocabulary": 49408}
        taken.assumed.append("text_tokenizer: trained on the captions; the original's is CLIP's, give its file")
    batch = _batch(taken, 32)
    factors = list(triple(taken.take("downsample", [4, 8, 8]), "downsample", taken.at))
    if "downsample" not in taken.values:
        taken.assumed.append("tokenizer.model.downsample: [4, 8, 8]; the tokenizer's own file is not the config's")
    optim = {
        "lr": _batch_of_a_machine(taken, 32) * taken.number("base_lr", 4.5e-6),
        "betas": [0.9, 0.95],
        "weight_decay": 0.01,
        "clip_grad_norm": _clip(taken),
    }
    return {
        "data": data,
        "tokenizer": {"model": {"kind": "vqgan", "downsample": factors}},
        "prior": {"model": model, "train": {**_steps(taken), "batch_size": batch, "optim": optim}},
    }


def _mebt(taken: Taken) -> Tree:
    t, h, w = triple(taken.take("shape", None), "model.mask.params.shape", taken.at)
    listed = taken.values.get("image_folder")
    data = _data(taken, 128, counts_sampled=listed is None, layout="frame_lists" if listed else None)
    sizes = (data["num_frames"], data["resolution"], data["resolution"])
    factors = [size // codes for size, codes in zip(sizes, (t, h, w), strict=True)]
    average, beta = taken.take("avg_loss", True), taken.take("beta_params", None)
    model: Tree = {
        "kind": "mebt",
        "n_layer": taken.take("n_layer", 24),
        "n_head": taken.take("n_head", 16),
        "n_embd": taken.take("n_embd", 1024),
        "latents": taken.take("sos_emb", 1),
        "mode": taken.take("mode", []),
        "schedule": taken.take("schedule", "linear"),
        "t_range": taken.take("t_range", [0.0, 1.0]),
        "budget": taken.take("budget", None),
        "t_prior": taken.take("t_prior", "longest"),
        "avg_loss": float(average) if isinstance(average, bool) else taken.number("avg_loss", 1.0),
        "label_smoothing": taken.number("label_smoothing", 0.0),
        "dropout": taken.number("resid_pdrop", 0.0),
        "attention_dropout": taken.number("attn_pdrop", 0.0),
        "parity": True,
    }
    if taken.values.get("avg_loss") is None:
        taken.assumed.append("avg_loss: 1, the mean over masked codes, for the config does not say it")
    if (embedded := taken.number("embd_pdrop", 0.0)) != model["dropout"]:
        taken.assumed.append(f"dropout of embeddings: {model['dropout']} as everywhere, the config has {embedded}")
    if beta is not None:
        model |= {"beta_prior": beta, "beta_steps": taken.whole("beta_iter", 100_000, least=1)}
    optim = {
        "lr": taken.number("exact_lr", 1e-5),
        "betas": [0.9, 0.95],
        "weight_decay": taken.number("weight_decay", 0.01),
        "warmup_steps": taken.whole("warmup_steps", 0),
        "schedule": "cosine" if taken.take("cosine_lr", False) else "constant",
        "clip_grad_norm": _clip(taken),
    }
    train = {**_steps(taken), "batch_size": _batch(taken, 32), "optim": optim}
    codes = taken.take("first_stage_vocab_size", 16384)
    return {
        "data": data,
        "tokenizer": {
            "model": {
                "kind": "vqgan",
                "downsample": factors,
                "n_codes": codes,
                "image_channels": taken.take("image_channels", 3),
            }
        },
        "prior": {"model": model, "train": train},
    }


_SYSTEMS: dict[str, Callable[[Taken], Tree]] = {
    "tats-vqgan": _vqgan,
    "tats-gpt": _gpt,
    "videogpt-vqvae": _vqvae,
    "videogpt-gpt": _videogpt,
    "mebt": _mebt,
}
