"""TATS's recipes for sound have its settings and fit each other; the guide's recipes load."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vtok
from schemas.config import Recipe, load_recipe
from schemas.config.tokenizer import TokenizerConfig
from vtok.cli import main
from vtok.tokenizers.load import build_tokenizer
from vtok.tokenizers.losses import uses_discriminators

VTOK = Path(vtok.__file__).parent
GUIDE = (VTOK / "audio" / "sound.md").read_text()


def _recipe(name: str) -> Recipe:
    return load_recipe(VTOK / "recipes" / f"{name}.yaml", shipped=VTOK / "recipes")


def _grid(recipe: Recipe) -> tuple[int, int, int]:
    size = recipe.tokenizer.frame_size(recipe.data.resolution)
    return recipe.tokenizer.model.grid(recipe.data.num_frames, *size)


def test_the_tokenizer_of_sound_is_tats_s() -> None:
    recipe = _recipe("tats-drums-stft")
    config, spectrum = recipe.tokenizer, recipe.tokenizer.spectrum
    assert spectrum is not None and spectrum.source == "stft"
    assert _grid(recipe) == (4, 8, 2)
    assert config.model.n_codes == 1024 and config.model.downsample == (4, 8, 8)
    assert not uses_discriminators(config.loss)
    assert (config.loss.l1_weight, config.loss.perceptual_weight) == (4, 4)
    assert (config.train.batch_size, config.train.generator.lr) == (96, 9e-5)
    with torch.device("meta"):
        found = sum(p.numel() for p in build_tokenizer(config.model).parameters())
        colour = sum(p.numel() for p in build_tokenizer(_recipe("tats-ucf101").tokenizer.model).parameters())
    # two channels less: kernels of 3x3x3 to 32 features in front and from 64 at the end, there with a bias
    assert colour - found == 2 * (27 * 32 + 27 * 64 + 1)
    assert found == 23_647_041


def test_the_prior_s_recipe_fits_it() -> None:
    prior, sound = _recipe("tats-drums-audio"), _recipe("tats-drums-stft")
    model = prior.prior.model
    assert model.kind == "gpt" and model.condition_length == math.prod(_grid(sound))
    assert model.condition_vocabulary == sound.tokenizer.model.n_codes
    assert prior.tokens.audio is not None and prior.tokens.audio.tokenizer == sound.out
    for stage in ("clips", "shards"):
        assert sound.folder(stage) == prior.folder(stage)
    assert sound.folder("tokenizer") != prior.folder("tokenizer")
    assert prior.data == sound.data


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"spectrum": {}}, "a spectrum has 1 channel, not 3"),
        ({"spectrum": {}, "model": {"image_channels": 1}, "train": {"augment": {"flip": True}}}, "neither cropped"),
        ({"spectrum": {"window": 9}, "model": {"image_channels": 1}}, "multiple of 2"),
    ],
)
def test_what_does_not_go_together(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig.model_validate(tree)


def test_spectra_must_divide() -> None:
    tree = {"spectrum": {"height": 60}, "model": {"image_channels": 1}}
    with pytest.raises(ValueError, match="height 60 is not divisible by the downsampling factor 8"):
        Recipe.model_validate({"out": "run", "data": {"root": "videos"}, "tokenizer": tree})


def test_the_guide_s_recipes_load_and_fit(tmp_path: Path) -> None:
    films, sounds = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    made = []
    for name, block in (("films", films), ("sounds", sounds)):
        (tmp_path / f"{name}.yaml").write_text(block)
        made.append(load_recipe(tmp_path / f"{name}.yaml"))
        assert made[-1].out == yaml.safe_load(block)["out"]
    assert made[0].folder("shards") == made[1].folder("shards")
    assert made[0].tokens.audio is not None and made[0].tokens.audio.tokenizer == made[1].out
    model = made[0].prior.model
    assert model.kind == "gpt" and model.condition_length == math.prod(_grid(made[1]))
    assert made[0].shards.audio_rate == 16 * 44 * 10


def test_the_guide_s_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    commands = [shlex.split(line.split("#")[0]) for line in block.splitlines()]
    assert len(commands) == 7
    for words in commands:
        verbs = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word)]
        assert main([*verbs, "--help"]) == 0
        assert any((VTOK / "recipes" / f"{word}.yaml").exists() for word in words)
    capsys.readouterr()
