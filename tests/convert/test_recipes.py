"""The originals' settings, translated, are the recipes that come with vtok for the same models, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.config import Recipe, load_recipe
from schemas.errors import UsageError
from vtok.convert.originals import read_settings
from vtok.convert.recipe import Translated, translate, write_recipe

SHIPPED = Path(__file__).resolve().parents[2] / "vtok" / "recipes"
SIZES = "--n_codes 16384 --embedding_dim 256 --n_hiddens 32"
README = (
    "--lr 3e-5 --batch_size 2 --gpus 8 --accumulate_grad_batches 6 --gradient_clip_val 1.0 --no_random_restart "
    "--perceptual_weight 4 --image_gan_weight 1 --video_gan_weight 1 --gan_feat_weight 4 --norm_type batch "
    "--sync_batchnorm --discriminator_iter_start 10000 --sequence_length 16"
)
GPT = "--block_size 1024 --n_layer 24 --n_head 16 --n_embd 1024 --gpus 8 --batch_size 3 --base_lr 4.5e-6 --vqvae v.ckpt"
HIDDEN = "--hidden_dim 576 --heads 4 --layers 8 --gpus 4 --batch_size 8 --resolution 128 --max_steps 200000"

COMMANDS: dict[str, tuple[str, str]] = {
    "tats-ucf101 tokenizer": (
        "tats-ucf101",
        f"train_vqgan.py {SIZES} {README} --downsample 4 8 8 --resolution 128 --max_steps 30000",
    ),
    "tats-mugen tokenizer": (
        "tats-mugen",
        f"train_vqgan.py {SIZES} {README} --downsample 4 16 16 --resolution 256 --max_steps 20000",
    ),
    "vqgan-256px-32frames tokenizer": (
        "vqgan-256px-32frames",
        f"train_vqgan.py {SIZES} {README} --downsample 2 16 16 --resolution 256 --max_steps 30000 --lr 5e-5 "
        "--sequence_length 32 --frame_rate 16 --accumulate_grad_batches 8 --discriminator_iter_start 13000",
    ),
    "tats-ucf101 prior": (
        "tats-ucf101",
        f"train_transformer.py {GPT} --unconditional --resolution 128 --max_steps 500000",
    ),
    "tats-ucf101-class prior": ("tats-ucf101-class", f"train_transformer.py {GPT} --resolution 128 --max_steps 500000"),
    "tats-taichi prior": (
        "tats-taichi",
        f"train_transformer.py {GPT} --unconditional --resolution 128 --max_steps 530000 --sequence_length 64 "
        "--sample_every_n_frames 4",
    ),
    "tats-sky-keys prior": (
        "tats-sky-keys",
        f"train_transformer.py {GPT} --unconditional --resolution 128 --max_steps 500000 --sequence_length 64 "
        "--sample_every_n_latent_frames 4",
    ),
    "tats-mugen-text prior": (
        "tats-mugen-text",
        f"train_transformer.py {GPT} --cond_stage_key text --resolution 256 --max_steps 380000 --downsample 4 16 16",
    ),
    "tats-drums-audio prior": (
        "tats-drums-audio",
        f"train_transformer.py {GPT} --cond_stage_key stft --stft_vqvae s.ckpt --resolution 96 --max_steps 500000",
    ),
    "vqgan-256px-32frames prior": (
        "vqgan-256px-32frames",
        f"train_transformer.py {GPT} --unconditional --resolution 256 --max_steps 500000 --downsample 2 16 16 "
        "--sequence_length 32 --frame_rate 16 --batch_size 6",
    ),
    "videogpt-ucf101 tokenizer": (
        "videogpt-ucf101",
        "train_vqvae.py --n_res_layers 4 --downsample 4 4 4 --gpus 4 --batch_size 8 --resolution 128",
    ),
    "videogpt-bair tokenizer": (
        "videogpt-bair",
        "train_vqvae.py --n_res_layers 4 --downsample 4 2 2 --gpus 4 --batch_size 8 --resolution 64",
    ),
    "videogpt-ucf101 prior": ("videogpt-ucf101", f"train_videogpt.py {HIDDEN} --vqvae ucf101_stride4x4x4"),
    "videogpt-bair prior": (
        "videogpt-bair",
        f"train_videogpt.py {HIDDEN} --vqvae bair_stride4x2x2 --n_cond_frames 1 --resolution 64",
    ),
    "videogpt-ucf101-class prior": (
        "videogpt-ucf101-class",
        f"train_videogpt.py {HIDDEN} --vqvae ucf101_stride4x4x4 --class_cond --attn_type sparse",
    ),
}
"""Flags as the originals' READMEs give them: which recipe they are, and the command; a later flag counts."""

LAYERS = [*["latent_enc", "latent_self"] * 6, "latent_enc", *["latent_dec", "lt2l"] * 5, "latent_dec"]
MEBT: dict[str, tuple[int, int, float, float, str, int]] = {
    "mebt-sky-16": (16, 6, 1.08e-5, 0.1, "longest", 1),
    "mebt-sky-128": (128, 5, 1.8e-5, 0.1, "gaussian2", 1),
    "mebt-taichi-16": (16, 32, 3e-5, 0.0, "longest", 4),
    "mebt-taichi-128": (128, 4, 3e-5, 0.0, "gaussian100000_2", 1),
    "mebt-ucf101-16": (16, 32, 3e-5, 0.0, "longest", 1),
    "mebt-ucf101-128": (128, 6, 3e-5, 0.0, "gaussian100000_2", 1),
}
"""Its configuration files: frames, clips a GPU, learning rate, dropout, t_prior, frame stride."""

OURS = {
    "data.root": "a place",
    "data.layout": "how the user keeps the videos",
    "validate_every": "the originals look at other times",
    "checkpoint_every": "the originals save at other times",
}
"""Fields that no original has."""


def _mebt(name: str) -> dict[str, Any]:
    frames, clips, lr, dropout, t_prior, stride = MEBT[name]
    shape = [frames // 4, 16, 16]
    drops = {f"{part}_pdrop": dropout for part in ("embd", "resid", "attn")}
    params = {"n_layer": 24, "n_head": 16, "n_embd": 1024, "block_size": frames * 64, "sos_emb": 256, "mode": LAYERS}
    return {
        "model": {
            "params": {**params, **drops, "avg_loss": True, "t_prior": t_prior, "first_stage_vocab_size": 16384},
            "mask": {"params": {"schedule": "linear", "shape": shape, "max_token": frames * 64, "method": "mlm"}},
        },
        "data": {
            "data_path": "x",
            "sequence_length": frames,
            "resolution": 128,
            "batch_size": clips,
            "image_folder": True,
            "sample_every_n_frames": stride,
        },
        "exp": {"exact_lr": lr, "weight_decay": 1e-4, "max_steps": 2000000},
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _fields(made: Recipe, section: str) -> dict[str, Any]:
    """What training of a section reads, by dotted names."""
    tree = made.model_dump()
    if section == "tokenizer":
        whole = _flat({"data": tree["data"], "tokenizer": tree["tokenizer"]})
    else:
        geometry = {name: tree["tokenizer"]["model"][name] for name in ("kind", "downsample", "n_codes")}
        whole = _flat({"data": tree["data"], "tokenizer": geometry, "prior": tree["prior"]})
        whole["tokens.cond_frames"] = tree["tokens"]["cond_frames"]
    if "mode" in tree["prior"]["model"]:
        whole["prior.model.mode"] = made.prior.model.modes()  # type: ignore[union-attr]
    whole["data.frame_stride"] = whole["data.frame_stride"] or 1
    return {name: value for name, value in whole.items() if not any(name.endswith(ours) for ours in OURS)}


def _shipped(name: str) -> Recipe:
    return load_recipe(SHIPPED / f"{name}.yaml", shipped=SHIPPED)


def _translated(text: str, tmp_path: Path) -> tuple[Recipe, Translated]:
    config = tmp_path / "original.txt"
    config.write_text(text)
    original = read_settings(config)
    made = translate(original.system, original.values, str(config))
    return Recipe.model_validate(made.recipe), made


def _command(text: str) -> str:
    """The command line with the last of each flag only: argparse takes that."""
    script, *flags = text.split(" --")
    return " --".join([script, *{flag.split()[0]: flag for flag in flags}.values()])


def _close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    expected = {name: pytest.approx(value) if isinstance(value, float) else value for name, value in wanted.items()}
    differing = {name: (found.get(name), wanted.get(name)) for name in found if found[name] != expected.get(name)}
    assert (differing, set(found)) == ({}, set(wanted))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines_become_the_recipe_of_the_same_model(name: str, tmp_path: Path) -> None:
    shipped, command = COMMANDS[name]
    section = name.split()[-1]
    found, made = _translated(_command(f"python {command}"), tmp_path)
    assert made.unknown == {}
    _close(_fields(found, section), _fields(_shipped(shipped), section))
    told = any(line.startswith("tokenizer.parity") for line in made.assumed)
    assert told == (section == "tokenizer"), "the only deviation that is not a field"


@pytest.mark.parametrize("name", MEBT)
def test_configs_of_mebt_become_the_recipe_of_the_same_model(name: str, tmp_path: Path) -> None:
    found, made = _translated(yaml.safe_dump(_mebt(name)), tmp_path)
    assert (made.unknown, made.assumed) == ({}, [])
    _close(_fields(found, "prior"), _fields(_shipped(name), "prior"))


def test_interpolation_is_the_originals(tmp_path: Path) -> None:
    """Its mask, and its loss on frames that are seen: the recipe that comes with vtok has ours instead."""
    text = f"python train_transformer.py {GPT} --unconditional --resolution 128 --sequence_length 20 --n_unmasked 256"
    found, _ = _translated(text, tmp_path)
    model = found.prior.model
    assert (model.kind, model.interpolation, model.parity) == ("gpt", "tats", True)


def test_machines_and_ranks_count(tmp_path: Path) -> None:
    """Clips of all machines are in a batch; TATS's learning rate grows with the GPUs of one."""
    found, _ = _translated(f"python train_transformer.py {GPT} --unconditional --num_nodes 2", tmp_path)
    assert found.prior.train.batch_size == 48
    assert found.prior.train.optim.lr == pytest.approx(1.08e-4)
    found, _ = _translated(f"python train_transformer.py {GPT.replace('--gpus 8', '--gpus 0,1,')}", tmp_path)
    assert found.prior.train.batch_size == 6
    _, made = _translated("python train_vqgan.py --norm_type batch --gpus 2 --max_steps 5", tmp_path)
    assert any(line.startswith("sync_batchnorm: true") for line in made.assumed)


def test_steps_as_lightning_and_yaml_write_them(tmp_path: Path) -> None:
    found, made = _translated(yaml.safe_dump({"hidden_dim": 576, "heads": 4, "max_steps": -1}), tmp_path)
    assert found.prior.train.steps == Recipe.model_fields["prior"].get_default(call_default_factory=True).train.steps
    assert any(line.startswith("train.steps") for line in made.assumed)
    found, _ = _translated("python train_videogpt.py --hidden_dim 576 --max_steps 2e5", tmp_path)
    assert found.prior.train.steps == 200_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--gpus -1", "does not say how many"),
        ("--gpus auto", "does not say how many"),
        ("--sample_every_n_frames 0", "`sample_every_n_frames` is not a whole number from 1 on"),
        ("--batch_size many", "`batch_size` is not a whole number"),
        ("--max_steps 1.5", "`max_steps` is not a whole number"),
        ("--base_lr high", "`base_lr` is not a number"),
    ],
)
def test_values_that_are_none(flags: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        _translated(_command(f"python train_transformer.py {GPT} {flags}"), tmp_path)


def test_values_stay_in_their_comment(tmp_path: Path) -> None:
    """An unknown setting's value is written into the recipe's head; it may hold line breaks."""
    config = tmp_path / "hparams.yaml"
    config.write_text(yaml.safe_dump({"n_res_layers": 4, "odd": "a\nout: elsewhere\nseed: 7", "odder\nname: y": 1}))
    write_recipe(config, tmp_path / "recipe.yaml")
    found = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert (found["out"], found.get("seed")) == ("runs/videogpt-vqvae", None)
