"""Priors' checkpoints, made as Lightning made them, give the codes, logits and losses of the original implementations.

A prior's checkpoint holds its tokenizer: both are converted, and both are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import UsageError
from tests.convert.lightning import full_vqgan_state, namespace, omega, save
from tests.golden.cases import Case, discover
from vtok import artefacts, load_prior, load_tokenizer
from vtok.convert.convert import Converted, convert
from vtok.priors.mebt import MebtPrior
from vtok.priors.tats import GptPrior
from vtok.priors.videogpt import VideoGptPrior

CASES = {case.id: case for case in discover()}
TATS = [name for name in CASES if name.startswith("tats/gpt_") and "first_stage" in CASES[name].config]
VIDEOGPT = [name for name in CASES if name.startswith("videogpt/gpt_") and "lowvar" not in name]
MEBT = [name for name in CASES if name == "mebt/mebt_main"]


def _tats(case: Case, path: Path, **changes: Any) -> Path:
    config = case.config
    names = set(config) - {"first_stage", "latent", "cond_stage_vocab_size", "gpt_vocab_size", "sos_token"}
    state = {name: v for name, v in case.state().items() if name.startswith("transformer.")}
    for layer in range(config["n_layer"]):
        state[f"transformer.blocks.{layer}.attn.mask"] = torch.ones(1, 1, config["block_size"], config["block_size"])
    hyper = {
        "args": namespace({name: config[name] for name in names}, sample_every_n_frames=1, **changes),
        "ckpt_path": None,
        "ignore_keys": [],
        "first_stage_key": "video",
        "cond_stage_key": "label",
        "pkeep": 1.0,
        "sos_token": 0,
    }
    return save(path, {**state, **full_vqgan_state(case, "first_stage_model.")}, hyper)


def _pair(made: Converted, run: Path) -> tuple[Any, Any]:
    """Prior and tokenizer of a run's folder, which belong together."""
    prior, tokenizer = load_prior(run), load_tokenizer(run)
    assert sorted(made.cards) == ["prior", "tokenizer"]
    assert made.cards["prior"].facts["tokenizer"] == tokenizer.fingerprint
    return prior, tokenizer


@pytest.mark.parametrize("name", TATS)
def test_gpts_of_tats(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = convert(_tats(case, tmp_path / "a.ckpt"), tmp_path / "run")
    prior, tokenizer = _pair(made, tmp_path / "run")
    assert isinstance(prior, GptPrior)
    assert (made.kind, made.assumed) == ("tats-gpt", ["padding_type=replicate"])
    assert tokenizer.downsample == tuple(case.config["first_stage"]["downsample"])
    codes_bthw = tokenizer.encode(case.input("video"))
    codes_bthw = codes_bthw[:, :: case.config["sample_every_n_latent_frames"] or 1]
    case.expect("z_indices", codes_bthw.flatten(1), case.tolerance("tokens"))
    labels = case.input("label") if not case.config["unconditional"] else None
    with torch.no_grad():
        case.expect("logits", prior.logits(codes_bthw, labels), case.tolerance("logits"))
        case.expect("loss", prior(codes_bthw, labels).loss, case.tolerance("loss"))
    assert len(made.cards["prior"].facts["classes"]) == (case.config["class_cond_dim"] or 0)


@pytest.mark.parametrize("name", VIDEOGPT)
def test_gpts_of_videogpt(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    config = {key: value for key, value in case.config.items() if key not in ("vqvae", "latent_shape")}
    args = namespace(config, vqvae="kinetics_stride4x4x4")
    made = convert(save(tmp_path / "a.ckpt", case.state(), {"args": args}), tmp_path / "run")
    prior, tokenizer = _pair(made, tmp_path / "run")
    assert isinstance(prior, VideoGptPrior)
    assert (made.kind, made.assumed) == ("videogpt-gpt", [])
    video = case.input("video")
    codes_bthw = tokenizer.encode(video)
    case.expect("targets", codes_bthw, case.tolerance("codes_tokens"))
    given = case.config["n_cond_frames"]
    labels = case.input("label") if case.config["class_cond"] else None
    frames = video[:, :, :given] if given else None
    with torch.no_grad():
        logits = prior.logits(codes_bthw, prior.context(labels, frames))
        case.expect("logits", logits.unflatten(1, prior.grid), case.tolerance("logits"))
        case.expect("loss", prior(codes_bthw, labels, frames).loss, case.tolerance("loss"))


def _mebt(case: Case, path: Path) -> Path:
    hyper = {
        "transformer_config": omega({"target": "mebt.transformer.Net2NetTransformer", **case.config["transformer"]}),
        "first_stage_config": omega({"params": {"ckpt_path": "vqgan.ckpt", "ignore_keys": ["loss"]}}),
        "mask_config": omega({"target": "mebt.mask_sampler.MaskGen", "params": case.config["mask"]}),
        "ckpt_path": None,
    }
    state = {name: v for name, v in case.state().items() if not name.startswith("first_stage_model.")}
    return save(path, {**state, **full_vqgan_state(case, "first_stage_model.")}, hyper)


@pytest.mark.parametrize("name", MEBT)
def test_transformer_of_mebt(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = _mebt(case, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="sequence_length"):
        convert(path, tmp_path / "run")
    first = case.config["first_stage"]
    beside = {key: first[key] for key in ("sequence_length", "resolution")}
    made = convert(path, tmp_path / "run", beside=beside)
    prior, tokenizer = _pair(made, tmp_path / "run")
    assert isinstance(prior, MebtPrior)
    assert (made.kind, tokenizer.downsample) == ("mebt", tuple(first["downsample"]))
    codes_bthw = tokenizer.encode(case.input("video"))
    codes_bn, order = codes_bthw.flatten(1), case.input("indices")
    case.expect("codes", codes_bn, case.tolerance("tokens_indices"))
    name = case.outputs("recon_logits")[0]
    words = case.meta["tensors"][f"out/{name}"]["meaning"]
    seen = int(words.split("context=indices[:, :")[1].split("]")[0])
    predicted = int(words.split("target=indices[:, -")[1].split(":")[0])
    with torch.no_grad():
        logits = prior.logits(codes_bn, order[:, :seen], order[:, order.shape[1] - predicted :])
    case.expect(name, logits, case.tolerance("logits"))


def test_settings_that_a_checkpoint_lacks_are_asked_for(tmp_path: Path) -> None:
    case = CASES[TATS[0]]
    path = _tats(case, tmp_path / "a.ckpt", n_head=None)
    with pytest.raises(UsageError, match="does not say `n_head`"):
        convert(path, tmp_path / "run")
    made = convert(path, tmp_path / "run", given={"n_head": case.config["n_head"], "padding_type": "constant"})
    assert made.assumed == []
    assert made.cards["tokenizer"].config["model"]["padding"] == "constant"
    assert artefacts.load(tmp_path / "run" / "prior").config["model"]["n_head"] == case.config["n_head"]


def test_settings_that_contradict_the_weights_are_listed(tmp_path: Path) -> None:
    path = _tats(CASES[TATS[0]], tmp_path / "a.ckpt", n_layer=7, n_embd=99)
    with pytest.raises(UsageError, match=r"n_layer is 7, .*n_embd is 99"):
        convert(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
