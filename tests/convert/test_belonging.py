"""Checkpoints whose parts do not belong together are refused, and ways to count frames or wrap a state understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.config.prior import MebtConfig, VideoGptConfig
from schemas.errors import UsageError
from tests.convert.lightning import full_vqgan_state, namespace, omega, save
from tests.convert.test_priors import CASES, TATS, _tats
from vtok import artefacts
from vtok.convert.checkpoint import read_checkpoint
from vtok.convert.convert import convert
from vtok.convert.kinds import unwrapped
from vtok.convert.models import factors_between
from vtok.convert.settings import Settings
from vtok.priors.build import Facts, build_prior

LABEL = next(CASES[name] for name in TATS if not CASES[name].config["unconditional"])
VQVAE = CASES["videogpt/vqvae_d244"]
CLIP = {"sequence_length": 4, "resolution": 16}
GRID = (2, 4, 4)
MEBT = {"n_layer": 2, "n_head": 2, "n_embd": 8, "sos_emb": 2, "mode": ["latent_enc", "latent_dec"], "block_size": 32}


def _mebt(path: Path, codes: int = 30) -> Path:
    """A small transformer of MeBT around a VQGAN of 30 codes."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "latents": 2, "mode": MEBT["mode"]}
    prior: Any = build_prior(MebtConfig.model_validate(sizes), Facts(codes, GRID))
    hyper = {
        "transformer_config": omega({"params": {**MEBT, "avg_loss": True}}),
        "mask_config": omega({"params": {"shape": list(GRID), "schedule": "linear", "t_range": [0.0, 1.0]}}),
    }
    state = {name: tensor for name, tensor in prior.state_dict().items() if "first_stage" not in name}
    return save(path, {**state, **full_vqgan_state(LABEL, "first_stage_model.")}, hyper)


def _videogpt(path: Path, **flags: Any) -> Path:
    """A small GPT of VideoGPT around a VQ-VAE."""
    vqvae = VQVAE.state()
    codebook = vqvae["codebook.embeddings"]
    config = VideoGptConfig(n_layer=1, n_head=2, n_embd=12)
    grid = VQVAE.config["latent_shape"]
    prior: Any = build_prior(config, Facts(len(codebook), grid, 0, 0, lambda: codebook))
    state = {name: tensor for name, tensor in prior.state_dict().items() if name != "codebook_kc"}
    state |= {f"vqvae.{name}": tensor for name, tensor in vqvae.items()}
    sizes = {name: VQVAE.config[name] for name in ("sequence_length", "resolution")}
    options = {"hidden_dim": 12, "heads": 2, "layers": 1, "attn_type": "full", "dropout": 0.2, "attn_dropout": 0.3}
    return save(path, state, {"args": namespace({**sizes, **options, **flags})})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"unconditional": True}, "it is unconditional, but has 7 tokens besides"),
        ({"class_cond_dim": 8}, "class_cond_dim is 8, the weights have 7"),
        ({"sample_every_n_latent_frames": "two"}, "`sample_every_n_latent_frames` is not a whole number"),
    ],
)
def test_a_gpt_of_tats_and_another_tokenizer(flags: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        convert(_tats(LABEL, tmp_path / "a.ckpt", **flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_transformer_of_mebt_and_another_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the prior has 31 codes, the tokenizer in it 30"):
        convert(_mebt(tmp_path / "a.ckpt", codes=31), tmp_path / "run", beside=CLIP)


def test_lists_of_images_count_sampled_frames(tmp_path: Path) -> None:
    """As MeBT's config of Taichi-HD: a clip is sequence_length sampled frames, every other of the video."""
    path = _mebt(tmp_path / "a.ckpt")
    listed = {**CLIP, "sample_every_n_frames": 2, "image_folder": True}
    videos = {**listed, "sequence_length": 8, "image_folder": False}
    for name, beside in (("listed", listed), ("videos", videos)):
        made = convert(path, tmp_path / name, beside=beside)
        card = artefacts.load(tmp_path / name / "tokenizer")
        assert (card.facts["downsample"], card.facts["grid"]) == ([2, 4, 4], list(GRID))
        assert made.cards["prior"].config["model"]["parity"] is True


def test_factors_that_contradict_the_grid() -> None:
    assert factors_between(Settings({}, CLIP, "x"), 4, GRID) == (2, 4, 4)
    with pytest.raises(UsageError, match=r"4 frames of 16 px, downsampled by \[4, 4, 4\], are not the grid"):
        factors_between(Settings({"downsample": [4, 4, 4]}, CLIP, "x"), 4, GRID)
    with pytest.raises(UsageError, match="5 frames of 30 px"):
        factors_between(Settings({}, {"resolution": 30, "downsample": [2, 4, 4]}, "x"), 5, GRID)


def test_a_gpt_of_videogpt_says_what_its_tokenizer_is(tmp_path: Path) -> None:
    path = _videogpt(tmp_path / "a.ckpt")
    made = convert(path, tmp_path / "run")
    assert artefacts.load(tmp_path / "run" / "tokenizer").facts["downsample"] == list(VQVAE.config["downsample"])
    assert made.cards["prior"].config["model"]["attention_dropout"] == 0.3
    sparse = convert(_videogpt(tmp_path / "sparse.ckpt", attn_type="sparse"), tmp_path / "sparse")
    assert sparse.cards["prior"].config["model"]["attention_dropout"] == 0.0, "the original does not use its 0.3"
    wrong = [VQVAE.config["downsample"][1], *VQVAE.config["downsample"][1:]]
    with pytest.raises(UsageError, match="are not the grid"):
        convert(path, tmp_path / "other", given={"downsample": wrong})


def _spoilt(path: Path, change: Any) -> Path:
    state = full_vqgan_state(LABEL, "first_stage_model.")
    state = {name.removeprefix("first_stage_model."): tensor for name, tensor in state.items()}
    change(state)
    return save(path, state, {"args": namespace(LABEL.config["first_stage"])})


def _nan(state: dict[str, Tensor]) -> None:
    state["encoder.conv_first.conv.weight"] = torch.full_like(state["encoder.conv_first.conv.weight"], torch.nan)


def _whole(state: dict[str, Tensor]) -> None:
    state["decoder.conv_last.conv.bias"] = torch.ones(3, dtype=torch.int8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nan, "NaN or infinity in encoder.conv_first.conv.weight, 1 tensors"),
        (_whole, "decoder.conv_last.conv.bias holds int8"),
    ],
)
def test_weights_that_are_none(change: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        convert(_spoilt(tmp_path / "a.ckpt", change), tmp_path / "run")


def test_other_ways_to_wrap_a_state(tmp_path: Path) -> None:
    """Prefixes one in another, the key that DeepSpeed has, and tensors with attributes."""
    noted = torch.ones(2)
    noted.note = "mine"  # type: ignore[attr-defined]
    torch.save({"module": {"module._orig_mod.w": noted, "module._orig_mod.v": torch.zeros(1)}}, tmp_path / "a.pt")
    found = unwrapped(read_checkpoint(tmp_path / "a.pt").tensors)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"w": [1.0, 1.0], "v": [0.0]}
