"""The originals' configs as recipes. What has no place in a recipe is listed, with the reason; nothing is dropped."""

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


class _Taken:
    """Settings, of which it is remembered which were used."""

    def __init__(self, values: Mapping[str, Any], at: str) -> None:
        self.values, self.at = dict(values), at
        self.used: set[str] = set()
        self.assumed: list[str] = []

    def take(self, name: str, default: Any) -> Any:
        """The setting, or the original's default."""
        self.used.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"`{name}` is not a number: {value!r}", at=self.at)
        return value

    def ranks(self) -> int:
        """Number of GPUs: a number, or `0,1,2,`."""
        gpus = self.take("gpus", 1)
        if isinstance(gpus, str) and "," in gpus:
            return max(1, len([part for part in gpus.split(",") if part.strip()]))
        return len(gpus) if isinstance(gpus, list) else max(1, int(gpus))


class _Dumper(yaml.SafeDumper):
    """Writes everything out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def translate(system: str, values: Mapping[str, Any], at: str) -> Translated:
    """A recipe of the originals' settings, under their names.

    Raises:
        UsageError: a value is not of its kind.
    """
    taken = _Taken(values, at)
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


def _data(taken: _Taken, side: int, *, counts_sampled: bool = False, layout: str | None = None) -> Tree:
    """Section `data`. The originals' video folders and HDF5 files count source frames, image folders sampled ones."""
    root = str(taken.take("data_path", "datasets/mine"))
    folder = bool(taken.take("image_folder", False))
    every = int(taken.number("sample_every_n_frames", 1))
    length = int(taken.number("sequence_length", 16))
    if layout is None:
        layout = "hdf5" if root.endswith((".hdf5", ".h5")) else "frames" if folder else "folder"
    data: Tree = {
        "root": root,
        "layout": layout,
        "resolution": int(taken.number("resolution", side)),
        "num_frames": length if counts_sampled or folder else length // every,
    }
    if every > 1:
        data["frame_stride"] = every
    if (rate := taken.take("frame_rate", None)) is not None:
        data["frame_rate"] = float(rate)
    return data


def _batch(taken: _Taken, default: int) -> int:
    """Clips in an optimiser step, over all GPUs and accumulated batches."""
    accumulate = int(taken.number("accumulate_grad_batches", 1))
    return int(taken.number("batch_size", default)) * taken.ranks() * accumulate


def _clip(taken: _Taken) -> float | None:
    """Lightning's 0 is no clipping."""
    return float(taken.number("gradient_clip_val", 0.0)) or None


def _vqgan(taken: _Taken) -> Tree:
    batch, perceptual = _batch(taken, 32), taken.number("perceptual_weight", 0.0)
    ranks, accumulate = taken.ranks(), taken.number("accumulate_grad_batches", 1)
    lr = accumulate * (ranks / 8) * (taken.number("batch_size", 32) / 4) * taken.number("lr", 3e-4)
    adam = {"optimizer": "adam", "lr": lr, "betas": [0.5, 0.9], "weight_decay": 0.0, "clip_grad_norm": _clip(taken)}
    loss: Tree = {
        "l1_weight": taken.number("l1_weight", 4.0),
        "perceptual_weight": perceptual,
        "image_gan_weight": taken.number("image_gan_weight", 1.0),
        "video_gan_weight": taken.number("video_gan_weight", 1.0),
        "gan_feature_weight": taken.number("gan_feat_weight", 0.0),
        "discriminator_start": int(taken.number("discriminator_iter_start", 50000)),
    }
    if perceptual:
        loss["lpips_weights"] = "weights/lpips.safetensors"
        taken.assumed.append("lpips_weights: a file with VGG16 and the LPIPS heads, to be put there by you")
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


def _steps(taken: _Taken) -> Tree:
    steps = taken.take("max_steps", None)
    if steps is None:
        taken.assumed.append("train.steps: vtok's default, for the config has no max_steps")
        return {}
    return {"steps": int(steps)}


def _vqvae(taken: _Taken) -> Tree:
    model = {name: taken.take(name, default) for name, default in _VQVAE_DEFAULTS.items()}
    model["downsample"] = list(triple(model["downsample"], "downsample", taken.at))
    train = {"steps": int(taken.number("max_steps", 200_000)), "batch_size": _batch(taken, 32)}
    return {"data": _data(taken, 64), "tokenizer": {"model": {"kind": "vqvae", **model}, "train": train}}


_VQVAE_DEFAULTS = {
    "embedding_dim": 256,
    "n_codes": 2048,
    "n_hiddens": 240,
    "n_res_layers": 4,
    "downsample": [4, 4, 4],
}


def _videogpt(taken: _Taken) -> Tree:
    name = str(taken.take("vqvae", "kinetics_stride4x4x4"))
    stride = re.search(r"stride(\d+)x(\d+)x(\d+)", name)
    factors = taken.take("downsample", [int(n) for n in stride.groups()] if stride else None)
    if factors is None:
        taken.assumed.append("tokenizer.model.downsample: [4, 4, 4]; the tokenizer's own file is not the config's")
    model = {
        "kind": "videogpt",
        "n_layer": taken.take("layers", 8),
        "n_head": taken.take("heads", 4),
        "n_embd": taken.take("hidden_dim", 576),
        "condition": "label" if taken.take("class_cond", False) else "none",
        "attention": taken.take("attn_type", "full"),
        "cond_frames": taken.take("n_cond_frames", 0),
        "dropout": taken.take("dropout", 0.2),
        "attention_dropout": taken.take("attn_dropout", 0.3),
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
    }


def _gpt(taken: _Taken) -> Tree:
    key = taken.take("cond_stage_key", "label")
    plain = "none" if taken.take("unconditional", False) else "label"
    condition = {"text": "text", "stft": "audio"}.get(key, plain)
    model = {
        "kind": "gpt",
        "n_layer": taken.take("n_layer", 48),
        "n_head": taken.take("n_head", 24),
        "n_embd": taken.take("n_embd", 1536),
        "condition": condition,
        "interpolation": "tats" if taken.number("n_unmasked", 0) else "none",
        "latent_stride": int(taken.number("sample_every_n_latent_frames", 0)) or 1,
    }
    if condition == "audio":
        model["condition_length"] = int(taken.number("stft_tokens", 1))
        model["condition_vocabulary"] = int(taken.number("stft_codes", 1024))
        taken.assumed.append("condition_length, condition_vocabulary: of the sound's tokenizer; check them")
    batch = _batch(taken, 32)
    factors = list(triple(taken.take("downsample", [4, 8, 8]), "downsample", taken.at))
    if "downsample" not in taken.values:
        taken.assumed.append("tokenizer.model.downsample: [4, 8, 8]; the tokenizer's own file is not the config's")
    optim = {
        "lr": batch * taken.number("base_lr", 4.5e-6),
        "betas": [0.9, 0.95],
        "weight_decay": 0.01,
        "clip_grad_norm": _clip(taken),
    }
    return {
        "data": _data(taken, 64),
        "tokenizer": {"model": {"kind": "vqgan", "downsample": factors}},
        "prior": {"model": model, "train": {**_steps(taken), "batch_size": batch, "optim": optim}},
    }


def _mebt(taken: _Taken) -> Tree:
    t, h, w = triple(taken.take("shape", None), "model.mask.params.shape", taken.at)
    data = _data(taken, 128, counts_sampled=True, layout="frame_lists" if taken.values.get("image_folder") else None)
    sizes = (data["num_frames"], data["resolution"], data["resolution"])
    factors = [size // codes for size, codes in zip(sizes, (t, h, w), strict=True)]
    smoothing, beta = taken.take("label_smoothing", 0.0), taken.take("beta_params", None)
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
        "avg_loss": float(taken.take("avg_loss", False)),
        "label_smoothing": float(smoothing),
        "dropout": float(taken.take("resid_pdrop", 0.0)),
        "attention_dropout": float(taken.take("attn_pdrop", 0.0)),
    }
    if (embedded := float(taken.take("embd_pdrop", 0.0))) != model["dropout"]:
        taken.assumed.append(f"dropout of embeddings: {model['dropout']} as everywhere, the config has {embedded}")
    if beta is not None:
        model |= {"beta_prior": beta, "beta_steps": int(taken.number("beta_iter", 100_000))}
    optim = {
        "lr": taken.number("exact_lr", 1e-5),
        "betas": [0.9, 0.95],
        "weight_decay": taken.number("weight_decay", 0.01),
        "warmup_steps": int(taken.number("warmup_steps", 0)),
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


_SYSTEMS: dict[str, Callable[[_Taken], Tree]] = {
    "tats-vqgan": _vqgan,
    "tats-gpt": _gpt,
    "videogpt-vqvae": _vqvae,
    "videogpt-gpt": _videogpt,
    "mebt": _mebt,
}
